"""Model shapes by name. The LLaMA ones are the published shapes; `tiny` is what ships with the package."""

from retune_jax.errors import UserError
from retune_jax.models.llama import LlamaConfig

PRESETS = {
    # The model of the laptop runs: 0.72 M parameters. Its weights are in assets/tiny, made by configs/base.py.
    "tiny": LlamaConfig(
        vocab_size=512,
        layers=4,
        width=128,
        heads=4,
        kv_heads=4,
        head_width=32,
        hidden=256,
        rope_theta=10_000.0,
        norm_epsilon=1e-5,
        tied_embeddings=True,
        dtype="float32",
        param_dtype="float32",
    ),
    "llama_7b": LlamaConfig(
        vocab_size=32_000,
        layers=32,
        width=4096,
        heads=32,
        kv_heads=32,
        head_width=128,
        hidden=11_008,
        rope_theta=10_000.0,
        norm_epsilon=1e-6,
        tied_embeddings=False,
        dtype="bfloat16",
        param_dtype="bfloat16",
    ),
    "llama_13b": LlamaConfig(
        vocab_size=32_000,
        layers=40,
        width=5120,
        heads=40,
        kv_heads=40,
        head_width=128,
        hidden=13_824,
        rope_theta=10_000.0,
        norm_epsilon=1e-6,
        tied_embeddings=False,
        dtype="bfloat16",
        param_dtype="bfloat16",
    ),
}


CUSTOM = "custom"  # names no shape: the base's own, whatever it is


def get(name: str) -> LlamaConfig:
    """The shape called `name`; a `UserError` lists the known names."""
    if name not in PRESETS:
        raise UserError(f"unknown model {name!r}: choose one of {', '.join(PRESETS)}")
    return PRESETS[name]
