"""Model shapes by name. The LLaMA ones are the published shapes; `tiny` is what ships with the package.

A shape is for weights yet to be drawn (`--config.base=random`) and for reckoning. Weights on disk bring their own: their
folder's model.json decides, and has to have the sizes of the preset that is named.
"""

import dataclasses

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
}
LLAMA_7B = PRESETS["llama_7b"]
LLAMA_13B = dataclasses.replace(LLAMA_7B, layers=40, width=5120, heads=40, kv_heads=40, hidden=13_824)
PRESETS |= {
    "llama_13b": LLAMA_13B,
    "llama2_7b": dataclasses.replace(LLAMA_7B, norm_epsilon=1e-5),
    "llama2_13b": dataclasses.replace(LLAMA_13B, norm_epsilon=1e-5),
    "codellama_7b": dataclasses.replace(LLAMA_7B, vocab_size=32_016, norm_epsilon=1e-5, rope_theta=1e6),
    "mistral_7b": dataclasses.replace(LLAMA_7B, kv_heads=8, hidden=14_336, norm_epsilon=1e-5, sliding_window=4096),
    "open_llama_3b": dataclasses.replace(LLAMA_7B, layers=26, width=3200, head_width=100, hidden=8640),
    "tinyllama_1b": dataclasses.replace(
        LLAMA_7B, layers=22, width=2048, kv_heads=4, head_width=64, hidden=5632, norm_epsilon=1e-5
    ),
}


CUSTOM = "custom"  # names no shape: the base's own, whatever it is


def get(name: str) -> LlamaConfig:
    """The shape called `name`; a `UserError` lists the known names."""
    if name not in PRESETS:
        raise UserError(f"unknown model {name!r}: choose one of {', '.join(PRESETS)}")
    return PRESETS[name]
