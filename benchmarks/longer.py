"""The tasks with longer training problems, for decode.py: what counts there is that long problems are solved to their end.

    PYTHONPATH=benchmarks python -m retune_jax.train --config=configs/addition.py --config.task=longer:Addition \\
        --config.data.per_length=6 --config.data.sequence_length=1024 --config.data.context_length=1024 --config.train.rows=4

How far a model generalises is another question, which such a run says nothing about.
"""

from retune_jax.tasks import addition, dynamic_programming


class Addition(addition.Addition):
    """Up to 100 digits."""

    trained_lengths = (1, 100)


class DynamicProgramming(dynamic_programming.DynamicProgramming):
    """Up to 16 items."""

    trained_lengths = (2, 16)
