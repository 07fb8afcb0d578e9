"""Weights in and out: released models to a base folder.

    python -m retune_jax.convert --input=Llama-2-7b-hf --output=bases/llama2-7b
    python -m retune_jax.train --config=configs/parity.py:model=custom --config.base=bases/llama2-7b

`--input` is a folder in Hugging Face's or in Meta's format: LLaMA 1 and 2, CodeLlama, TinyLlama, OpenLLaMA, Mistral, and
others that differ in size only. The format is recognised.
"""

from pathlib import Path

from absl import flags

from retune_jax import cli
from retune_jax.errors import UserError

INPUT = flags.DEFINE_string("input", None, "Folder of a model in Hugging Face's or Meta's format.")
OUTPUT = flags.DEFINE_string("output", None, "Folder to write; must not exist.")
DTYPE = flags.DEFINE_enum(
    "dtype",
    None,
    ["float32", "bfloat16", "float16"],
    "Store (and compute) in this; default: float32 stays, 16 bits are bfloat16.",
)
TOKENIZER = flags.DEFINE_string("tokenizer", None, "SentencePiece file, where --input has no tokenizer.model.")


def path_of(flag) -> Path | None:
    """The path that a flag gives."""
    return Path(flag.value).expanduser() if flag.value else None


def main(arguments: list[str]):
    """The command line."""
    cli.no_arguments(arguments)
    if not OUTPUT.value:
        raise UserError("give --output, the folder to write")
    if not INPUT.value:
        raise UserError("give --input, the folder to convert")
    from retune_jax.checkpoints.importing import import_base  # here, so that --help and mistakes need not wait for JAX

    output = path_of(OUTPUT)
    shape = import_base(path_of(INPUT), output, dtype=DTYPE.value, tokenizer=path_of(TOKENIZER))
    print(f"retune_jax: {output} holds the base: {shape.layers} layers of width {shape.width}, {shape.param_dtype}")
    print(f"Tune it: python -m retune_jax.train --config=configs/parity.py:model=custom --config.base={output}")


if __name__ == "__main__":
    cli.run(main)
