"""Stopping together: a signal to any process makes all of them stop after the same step."""

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from retune_jax import distributed


class Agreement:
    """Asks all processes, once a step, whether one of them was told to stop.

    The question goes to the devices before the step does, and the answer is fetched after it was dispatched, so that no
    device waits for the host. All get the same answer to the same question. A process alone asks nobody.
    """

    def __init__(self, mesh: Mesh):
        self.shape, self.over = (mesh.size,), NamedSharding(mesh, PartitionSpec(mesh.axis_names))
        self.largest = jax.jit(lambda numbers: numbers.max(), out_shardings=NamedSharding(mesh, PartitionSpec()))
        self.asked = None

    def ask(self, signal: int | None):
        """Puts the question; `signal` is this process's own answer, the number of the signal that came, or None."""
        if distributed.count() > 1:
            numbers = np.full(self.shape, signal or 0, np.int32)
            self.asked = self.largest(jax.make_array_from_callback(self.shape, self.over, numbers.__getitem__))

    def answer(self, signal: int | None) -> int:
        """The largest signal of any process when `ask` was called, 0 for none; alone, `signal` itself."""
        return int(self.asked) if distributed.count() > 1 else int(signal or 0)
