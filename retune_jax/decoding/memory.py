"""How much memory a decoder takes, said before it is made, and which stack policy fits.

weights    as they lie
layers     of these what is laid out anew, an array a layer, where the model holds them in one (`llama.apart`)
windows    keys and values of the active contexts, at their longest, twice: while they are resized there are two
stack      keys and values of the suspended callers: slots x stack_tokens, by `keep` on the device, by `offload` on the host
rest       bookkeeping, the log, the memo, and the logits of a pass
"""

import dataclasses
import math

import jax
import jax.numpy as jnp

from retune_jax.decoding.config import DecoderConfig
from retune_jax.errors import UserError

GIB = 2**30
SPARE = 0.9  # the share of free memory that may be taken
FITTING = ("keep", "offload", "recompute")  # from the fastest


@dataclasses.dataclass(frozen=True)
class Need:
    """Bytes, over all devices together."""

    weights: int
    layers: int
    windows: int
    stack: int
    rest: int

    def device(self, stack: str) -> int:
        """Bytes on the devices under a stack policy."""
        return self.weights + self.layers + self.windows + self.rest + (self.stack if stack == "keep" else 0)

    def __str__(self) -> str:
        return ", ".join(f"{field.name} {getattr(self, field.name) / GIB:.2f}" for field in dataclasses.fields(self))


def need(shapes, params, layers, config: DecoderConfig, vocab_size: int) -> Need:
    """What a decoder takes whose state, with its stack kept, has these shapes; of the weights, `layers` are laid out anew."""
    logits = config.slots * config.tokens_per_step * vocab_size * 4
    return Need(
        weights=_bytes(params),
        layers=_bytes(layers),
        windows=2 * _bytes(shapes.cache),
        stack=_bytes(shapes.stack),
        rest=2 * logits + _bytes((shapes.slots, shapes.memory, shapes.memo)),
    )


def choose(needed: Need, config: DecoderConfig, device: jax.Device, devices: int) -> str:
    """The stack policy: the one asked for, or for `auto` the fastest that fits.

    Raises:
        UserError: the decoder does not fit, with what it takes and what there is.
    """
    host = free_on_host()
    offloads = any(memory.kind == "pinned_host" for memory in device.addressable_memories())
    room = config.memory_gib * GIB or _free(device, devices)
    # What is there already does not have to find room again.
    taken = 0 if config.memory_gib else needed.weights

    def fits(stack: str) -> bool:
        on_host = stack == "offload" and (not offloads or needed.stack > SPARE * host)
        return not on_host and needed.device(stack) - taken <= room

    wanted = FITTING if config.stack == "auto" else (config.stack,)
    for stack in wanted:
        if fits(stack):
            return stack
    if config.stack == "offload" and not offloads:
        raise UserError(f"decode.stack is offload, but {device.platform} has no memory on the host to offload to")
    raise UserError(
        f"the decoder needs {needed.device(wanted[-1]) / GIB:.2f} GiB of memory with decode.stack={wanted[-1]} ({needed}), and "
        f"{(room + taken) / GIB:.2f} are there: fewer decode.slots, a smaller decode.stack_tokens or decode.window"
        + ("" if wanted[-1] == "recompute" else ", or decode.stack=auto")
    )


def free_on_host() -> float:
    """Free bytes of the host's memory; infinite where the system does not say."""
    try:
        with open("/proc/meminfo") as file:
            return next(int(line.split()[1]) * 1024 for line in file if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
        return math.inf


def _free(device: jax.Device, devices: int) -> float:
    stats = device.memory_stats() or {}
    if "bytes_limit" in stats:
        return SPARE * devices * (stats["bytes_limit"] - stats.get("bytes_in_use", 0))
    return SPARE * free_on_host() if device.platform == "cpu" else math.inf


def _bytes(tree) -> int:
    return sum(math.prod(leaf.shape) * jnp.dtype(leaf.dtype).itemsize for leaf in jax.tree.leaves(tree))
