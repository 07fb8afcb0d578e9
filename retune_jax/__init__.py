"""Re-Tuning (Pasewark et al., ACL 2024) in JAX: language models that solve problems by calling themselves."""

import sys

__version__ = "0.1.0"

# `python -m retune_jax.X` imports this file first: from here on, Ctrl-C ends the command in one line.
if sys.argv[:1] == ["-m"] and any(word.removeprefix("-m").split(".")[0] == "retune_jax" for word in sys.orig_argv):
    from retune_jax import interrupts

    interrupts.install()
