"""Floating-point operations of a training step, and what a device could do: the two sides of MFU.

A token takes 2 operations a weight in the forward pass and 2 in the backward pass through it; the weight's own gradient takes
2 more, which the frozen base never computes. So LoRA takes 4 a base weight and 6 an adapter weight, and training all weights
6. Attention's own products are left out, as are padding and what rematerialisation computes again: MFU counts useful work.
"""

import jax

from retune_jax.models.llama import LlamaConfig

# Dense bfloat16 FLOP/s of a device, by the beginning of JAX's name for its kind (the makers' data sheets).
PEAKS = (
    ("NVIDIA H100 PCIe", 756e12),
    ("NVIDIA H100", 989e12),
    ("NVIDIA H200", 989e12),
    ("NVIDIA GH200", 989e12),
    ("NVIDIA B200", 2250e12),
    ("NVIDIA A100", 312e12),
    ("TPU v6", 918e12),
    ("TPU v5p", 459e12),
    ("TPU v5 lite", 197e12),
    ("TPU v5", 459e12),
    ("TPU v4", 275e12),
)


def peak(device: jax.Device) -> float | None:
    """The device's FLOP/s; None where nobody has written it down, such as for a CPU."""
    return next((flops for kind, flops in PEAKS if device.device_kind.startswith(kind)), None)


def multiplied(shape: LlamaConfig) -> int:
    """The base's weights that a token is multiplied with: all but the embedding, which is looked up, and the norms' scales."""
    attention = shape.width * shape.head_width * (2 * shape.heads + 2 * shape.kv_heads)
    return shape.layers * (attention + 3 * shape.width * shape.hidden) + shape.vocab_size * shape.width


def per_token(shape: LlamaConfig, adapter_weights: int) -> float:
    """FLOPs of a trained token; `adapter_weights` is 0 where all weights are trained."""
    return (4 if adapter_weights else 6) * multiplied(shape) + 6 * adapter_weights
