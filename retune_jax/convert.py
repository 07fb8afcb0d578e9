"""Weights in and out: released models and adapters in, trained models out.

    python -m retune_jax.convert --input=Llama-2-7b-hf --output=bases/llama2-7b
    python -m retune_jax.train --config=configs/parity.py:model=custom --config.base=bases/llama2-7b

`--input` is a folder in Hugging Face's or in Meta's format: LLaMA 1 and 2, CodeLlama, TinyLlama, OpenLLaMA, Mistral, and
others that differ in size only. The format is recognised. A PEFT adapter becomes a run, for the base and the task that a
recipe names:

    python -m retune_jax.convert --input=ADAPTER --output=runs/theirs --recipe=configs/addition.py:model=custom \\
        --config.base=bases/llama-7b

And out again, the adapter alone for PEFT, or the whole model for transformers:

    python -m retune_jax.convert --workdir=runs/parity-retune-custom --output=adapter --format=peft
    python -m retune_jax.convert --workdir=runs/parity-retune-custom --output=model --format=hf
"""

from absl import flags

from retune_jax import cli, disk
from retune_jax.errors import UserError

INPUT = flags.DEFINE_string("input", None, "Folder of a model in Hugging Face's or Meta's format, or of a PEFT adapter.")
WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run to export.")
OUTPUT = flags.DEFINE_string("output", None, "Folder to write; must not exist.")
FORMAT = flags.DEFINE_enum("format", None, ["peft", "hf"], "What --workdir becomes: an adapter, or a whole model.")
DTYPE = flags.DEFINE_enum(
    "dtype",
    None,
    ["float32", "bfloat16", "float16"],
    "Store (and compute) in this; default: float32 stays, 16 bits are bfloat16.",
)
TOKENIZER = flags.DEFINE_string("tokenizer", None, "SentencePiece file, where --input has no tokenizer.model.")
RECIPE = flags.DEFINE_string(
    "recipe", None, "Config file of the run that a PEFT adapter becomes; --config.KEY=VALUE go with it."
)


def main(arguments: list[str]):
    """The command line."""
    if (INPUT.value is None) == (WORKDIR.value is None):
        raise UserError("give --input, a folder to bring in, or --workdir, a run to export")
    output = disk.folder(OUTPUT.value, "--output")
    if INPUT.value is not None:
        folder = disk.folder(INPUT.value, "--input")
        _refuse("--input", {"--format": FORMAT.value})
        if (folder / "adapter_config.json").is_file():
            _adapter(folder, output, arguments)
        else:
            _base(folder, output, arguments)
    else:
        cli.no_arguments(arguments)
        _refuse("--workdir", {"--dtype": DTYPE.value, "--tokenizer": TOKENIZER.value, "--recipe": RECIPE.value})
        _export(disk.folder(WORKDIR.value, "--workdir"), output)


def _base(folder, output, arguments: list[str]):
    cli.no_arguments(arguments)
    _refuse("a whole model", {"--recipe": RECIPE.value})
    from retune_jax.checkpoints.importing import import_base  # here, so that --help and mistakes need not wait for JAX

    tokenizer = disk.folder(TOKENIZER.value, "--tokenizer") if TOKENIZER.value is not None else None
    shape = import_base(folder, output, dtype=DTYPE.value, tokenizer=tokenizer)
    print(f"retune_jax: {output} holds the base: {shape.layers} layers of width {shape.width}, {shape.param_dtype}")
    print(f"Tune it: python -m retune_jax.train --config=configs/parity.py:model=custom --config.base={output}")


def _adapter(folder, output, arguments: list[str]):
    _refuse("an adapter", {"--dtype": DTYPE.value, "--tokenizer": TOKENIZER.value})
    if RECIPE.value is None:
        raise UserError(
            f"{folder} holds a PEFT adapter: say what it was trained for and on, as "
            "--recipe=configs/TASK.py:model=custom --config.base=BASE"
        )
    config = cli.configuration(RECIPE.value, arguments)
    from retune_jax.checkpoints.importing import import_adapter

    lora = import_adapter(folder, output, config)
    print(f"retune_jax: {output} holds the adapter: rank {lora.rank}, alpha {lora.alpha:g}, on {', '.join(lora.targets)}")
    print(f"Evaluate it: python -m retune_jax.evaluate --workdir={output}")


def _export(workdir, output):
    if FORMAT.value is None:
        raise UserError("give --format=peft, for the adapter, or --format=hf, for the whole model")
    from retune_jax.checkpoints import exporting

    {"peft": exporting.export_peft, "hf": exporting.export_hf}[FORMAT.value](workdir, output)
    print(f"retune_jax: {output} holds {'the adapter' if FORMAT.value == 'peft' else 'the model'}")


def _refuse(what: str, unused: dict):
    for flag, value in unused.items():
        if value is not None:
            raise UserError(f"{flag} has no meaning with {what}")


if __name__ == "__main__":
    cli.run(main)
