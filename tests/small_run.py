"""The folder of a run that has been trained for one step, as far as other commands can tell: random weights, one layer."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from retune_jax import config as recipes
from retune_jax import tokenizer
from retune_jax.checkpoints import runs, weights
from retune_jax.models import sharding
from retune_jax.models.llama import Llama, LlamaConfig


def settle(config):
    """Small problems and a small decoder."""
    config.decode.update({"slots": 4, "window": 128, "max_depth": 4, "stack_tokens": 256, "max_tokens": 200})
    config.decode.update({"tokens_per_step": 4, "steps_per_advance": 8})
    config.eval.update({"lengths": "1:3", "problems_per_length": 2})
    return config


def make(folder: Path) -> Path:
    """Makes the run `folder/run` on the base `folder/base`, and returns it."""
    shape = LlamaConfig(
        vocab_size=tokenizer.tiny().vocab_size,
        layers=1,
        width=8,
        heads=2,
        kv_heads=1,
        head_width=4,
        hidden=8,
        rope_theta=1e4,
        norm_epsilon=1e-5,
        tied_embeddings=True,
        dtype="float32",
        param_dtype="float32",
    )
    rng = np.random.default_rng(0)
    state = nnx.state(nnx.eval_shape(lambda: Llama(shape, None, remat="none", rngs=nnx.Rngs(0))))
    params = jax.tree.map(lambda x: rng.normal(0, 1, x.shape).astype(x.dtype), nnx.to_pure_dict(state))
    weights.save_base(folder / "base", shape, params, tokenizer.tiny().path)
    config = settle(recipes.recipe("", task="parity"))
    config.model, config.base = "custom", str(folder / "base")
    config.lora.update({"rank": 2, "targets": "q,down"})
    config.decode.update({"max_tokens": 30, "max_calls": 3})
    mesh = sharding.make_mesh(-1, 1, 1)
    base, lora = weights.load_base(config.base, config.model), weights.lora_config(config.lora)
    model = weights.assemble(base, lora, remat="none", context_length=None, seed=0, mesh=mesh)
    adapter = nnx.to_pure_dict(nnx.state(model, runs.LoRAParam))
    runs.claim(folder / "run", config)
    checkpoints = runs.Checkpoints(folder / "run", keep=1)
    checkpoints.save(1, params=adapter, optimizer={"count": jnp.int32(1)}, data={}, config=config)
    checkpoints.close()
    return folder / "run"
