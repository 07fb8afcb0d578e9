"""doc"""

from retune_jax.decoding.config import DecoderConfig
from retune_jax.decoding.decoder import RecursiveDecoder
from retune_jax.decoding.result import Result

__all__ = ["DecoderConfig", "RecursiveDecoder", "Result"]
