"""A window of steps under JAX's profiler, for TensorBoard's profile plugin or Perfetto (ui.perfetto.dev).

--config.profile.start=20 --config.profile.steps=5       writes the steps 21 to 25 into DIR/profile
"""

from pathlib import Path

import jax


class Profile:
    """Starts after step `start` (or the first later one, where a run goes on), and stops `steps` steps after."""

    def __init__(self, folder: Path, start: int, steps: int):
        self.folder, self.start, self.end = folder, start, start + steps
        self.running = False

    def before(self, step: int):
        """To be called with the number of steps done, before the next one."""
        if not self.running and self.start <= step < self.end:
            jax.profiler.start_trace(str(self.folder), create_perfetto_trace=True)
            self.running = True
        elif self.running and step >= self.end:
            self.close()

    def close(self):
        """Stops and writes, where it runs."""
        if self.running:
            self.running = False
            self.start = self.end  # once
            jax.profiler.stop_trace()
