"""Runs of several real processes on this machine, for the tests of what they do together."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from retune_jax import tokenizer
from retune_jax.models.llama import LlamaConfig

ROOT = Path(__file__).parents[1]
SHAPE = LlamaConfig(
    vocab_size=tokenizer.tiny().vocab_size,
    layers=2,
    width=16,
    heads=2,
    kv_heads=2,
    head_width=8,
    hidden=32,
    rope_theta=1e4,
    norm_epsilon=1e-5,
    tied_embeddings=True,
    dtype="float32",
    param_dtype="float32",
)

RECIPE = """
from retune_jax.config import recipe

def get_config(arguments=""):
    config = recipe(arguments or "model=custom", task="parity")
    config.base = {base!r}
    config.lora.update({{"rank": 2, "targets": "q,v,down"}})
    config.data.update({{"dir": {data!r}, "scale": 0.001, "sequence_length": 128, "context_length": 128}})
    config.train.update({{"steps": 8, "rows": 8, "log_every": 1, "save_every": 3, "warmup": 2, "loss": "mean"}})
    config.decode.update({{"slots": 4, "window": 64, "max_tokens": 64, "max_calls": 4, "stack_tokens": 256, "max_depth": 4}})
    config.log.tensorboard = False
    config.eval.update({{"lengths": "1:3", "problems_per_length": 3}})
    return config
"""


def write_recipe(folder: Path) -> Path:
    """A config file for the smallest run there can be, with its base beside it."""
    import jax
    from flax import nnx

    from retune_jax.checkpoints import weights
    from retune_jax.models.llama import Llama

    model = nnx.eval_shape(lambda: Llama(SHAPE, None, remat="none", rngs=nnx.Rngs(0)))
    rng = np.random.default_rng(0)
    params = jax.tree_util.tree_map_with_path(
        lambda path, x: (rng.normal(0, 0.1, x.shape) + ("norm" in str(path))).astype(x.dtype),
        nnx.to_pure_dict(nnx.state(model)),
    )
    weights.save_base(folder / "base", SHAPE, params, tokenizer.tiny().path)
    (folder / "small.py").write_text(RECIPE.format(base=str(folder / "base"), data=str(folder / "data")))
    return folder / "small.py"


class Launched:
    """`processes` processes of one command, each with `devices` fake devices. Killed at the end of a `with` block."""

    def __init__(self, arguments: list, folder: Path, *, processes: int, devices: int, each=lambda process: []):
        folder.mkdir(parents=True, exist_ok=True)
        flags = " ".join(word for word in os.environ.get("XLA_FLAGS", "").split() if "device_count" not in word)
        environment = os.environ | {
            "PYTHONFAULTHANDLER": "1",
            "XLA_FLAGS": f"{flags} --xla_force_host_platform_device_count={devices}",
        }
        with socket.create_server(("", 0)) as server:
            port = server.getsockname()[1]
        self.logs, self.running = [], []
        for process in range(processes):
            place = [f"--coordinator=127.0.0.1:{port}", f"--processes={processes}", f"--process={process}", "--wait=60"]
            self.logs.append(folder / f"log.{process}")
            with self.logs[-1].open("w") as log:
                command = [sys.executable, "-m", *arguments, *(place if processes > 1 else []), *each(process)]
                self.running.append(
                    subprocess.Popen(list(map(str, command)), cwd=ROOT, env=environment, stdout=log, stderr=log)
                )

    def wait(self, timeout: float = 120) -> list[int]:
        """The exit codes; an AssertionError with what each was doing where one is left at the end of the time."""
        deadline = time.monotonic() + timeout
        try:
            return [process.wait(max(0.1, deadline - time.monotonic())) for process in self.running]
        except subprocess.TimeoutExpired as error:
            for process in self.running:
                process.send_signal(signal.SIGABRT)  # faulthandler prints where its threads are
            time.sleep(1)
            raise AssertionError(f"still there after {timeout} s:\n" + "\n".join(self.said())) from error

    def until(self, true, timeout: float = 90):
        """Waits until `true()` while all processes live."""
        deadline = time.monotonic() + timeout
        while not true():
            assert all(process.poll() is None for process in self.running), self.said()
            assert time.monotonic() < deadline, self.said()
            time.sleep(0.02)

    def signal(self, number: signal.Signals, process: int):
        """Sends a signal to one of them."""
        self.running[process].send_signal(number)

    def said(self) -> list[str]:
        """What each has printed."""
        return [log.read_text() for log in self.logs]

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        for process in self.running:
            process.kill()
            process.wait()


def lines(path: Path) -> int:
    """How many lines a file has; 0 where there is none."""
    return path.read_text().count("\n") if path.exists() else 0
