"""How much memory a training step takes, from the program that XLA compiles for it; nothing is allocated or trained.

The step is the one that `train` runs (`loss.make_step`), compiled for one device with shapes in place of arrays. XLA then knows
every buffer of the program: the arguments (base, adapter, optimizer state, batch), the temporaries, and which results take the
place of arguments. Their sum is what has to be there at once.

Where there is no accelerator the program is compiled for the CPU, and its figures stand for an accelerator's with two
provisos, both on the safe side or made so:

- A CPU multiplies bfloat16 matrices as float32, in copies. They are counted. XLA would make them for the whole base before the
  loop over layers, which takes 24 GiB more for 7B and has no counterpart on a GPU or TPU, where bfloat16 is multiplied as it
  is. That hoisting is switched off (`WITHIN_LOOPS`), so that the copies of one layer live at a time.
- The runtime's own memory (CUDA's context, collectives, fragmentation) is not counted: leave it 1 to 2 GiB.
"""

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx
from ml_collections import ConfigDict

from retune_jax.checkpoints import weights
from retune_jax.checkpoints.runs import trained
from retune_jax.models.llama import Llama, LlamaConfig
from retune_jax.training import loss, optimizer

WITHIN_LOOPS = {"xla_disable_hlo_passes": "while-loop-invariant-code-motion,while-loop-expensive-invariant-code-motion"}


@dataclasses.dataclass(frozen=True)
class Peak:
    """Bytes that a training step needs.

    Attributes:
        base: the frozen weights.
        trained: the trained parameters and their optimizer state.
        temporary: gradients, activations and all else that lives within the step, the batch included.
    """

    base: int
    trained: int
    temporary: int

    @property
    def total(self) -> int:
        """All of it."""
        return self.base + self.trained + self.temporary


def abstract(config: ConfigDict, shape: LlamaConfig):
    """The step's static part and its arguments as shapes: graphdef, optimizer, {"params", "optimizer"}, frozen, batch, key."""
    lora = weights.lora_config(config.lora)
    how = {"remat": config.train.remat, "attention": config.train.attention, "quantize": config.quantize}
    how["context_length"] = config.data.context_length
    model = nnx.eval_shape(lambda: Llama(shape, lora, **how, rngs=nnx.Rngs(0)))
    graphdef, params, frozen = nnx.split(model, trained(lora), ...)  # type: ignore[misc]
    params, frozen = nnx.to_pure_dict(params), nnx.to_pure_dict(frozen)
    chosen = optimizer.make_optimizer(config.train)
    state = jax.eval_shape(lambda params: {"params": params, "optimizer": chosen.init(params)}, params)
    rows, length = config.train.rows, config.data.sequence_length
    names = ("tokens_BT", "targets_BT", "positions_BT", "segment_ids_BT")
    batch = {name: jax.ShapeDtypeStruct((rows, length), jnp.int32) for name in names}
    batch |= {"weights_BT": jax.ShapeDtypeStruct((rows, length), jnp.float32)}
    batch |= {"segments_B": jax.ShapeDtypeStruct((rows,), jnp.int32)}
    return graphdef, chosen, state, frozen, batch, jax.eval_shape(lambda: jax.random.key(0))


def compiled(config: ConfigDict, shape: LlamaConfig):
    """The training step of a configuration for a model's shape, compiled for one device of this machine."""
    graphdef, chosen, *arguments = abstract(config, shape)
    step = loss.make_step(graphdef, chosen, accumulate=config.train.accumulate, shardings=None)
    options = WITHIN_LOOPS if jax.default_backend() == "cpu" else None
    return step.lower(*arguments).compile(compiler_options=options)


def peak(config: ConfigDict, shape: LlamaConfig) -> Peak:
    """What the training step of a configuration takes on one device, for a model's shape."""
    _, _, state, frozen, *_ = abstract(config, shape)
    found = compiled(config, shape).memory_analysis()
    base, kept = size(frozen), size(state)
    total = found.argument_size_in_bytes + found.temp_size_in_bytes + found.output_size_in_bytes - found.alias_size_in_bytes
    return Peak(base, kept, total - base - kept)


def size(tree) -> int:
    """Bytes of all arrays of a tree."""
    return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(tree))
