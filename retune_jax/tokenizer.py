"""Text to token ids and back, by SentencePiece.

Two kinds of model file load: LLaMA's `tokenizer.model`, by path, and the project's own small one for the tiny model, which
ships with the package and is made by

    python -m retune_jax.tokenizer --output=retune_jax/assets/tiny/tokenizer.model

The recursion splices token ids: a call's ids become the prompt of a new context, a value's ids are pasted after `Return:`.
That is only sound when splicing ids equals encoding the spliced text. It does because every splice stands before a space or
a newline, where these tokenizers always cut, and because text is encoded as it stands: LLaMA's own model adds a space in front,
others join spaces or make one of a newline, and all are loaded here with that off.
"""

import functools
import importlib.resources
import pathlib

import sentencepiece
from sentencepiece import sentencepiece_model_pb2

from retune_jax import disk
from retune_jax.errors import UserError

NEWLINE = "\n"


class Tokenizer:
    """A SentencePiece model with what the data pipeline and the decoder need of it.

    Attributes:
        path: the file that it was loaded from.
        vocab_size: the number of pieces.
        bos, eos: the ids that open a context and end a segment; `pad` fills batches and is never attended to.
        processor: SentencePiece's own object.
        pieces: for each id the bytes that it stands for; empty for control pieces.
    """

    def __init__(self, path: str | pathlib.Path):
        """Loads `path`; a `UserError` says what is wrong with a file that is missing or is no SentencePiece model."""
        self.path = pathlib.Path(path)
        proto = sentencepiece_model_pb2.ModelProto()  # type: ignore[attr-defined]
        try:
            proto.ParseFromString(self.path.read_bytes())
            normalizer = proto.normalizer_spec
            normalizer.add_dummy_prefix = normalizer.remove_extra_whitespaces = False
            normalizer.precompiled_charsmap = b""  # some make a space of a newline
            self.processor = sentencepiece.SentencePieceProcessor(model_proto=proto.SerializeToString())
        except OSError as error:
            raise UserError(f"tokenizer {self.path}: {error.strerror or error}") from error
        except Exception as error:  # protobuf and SentencePiece raise types of their own
            raise UserError(f"tokenizer {self.path}: not a SentencePiece model") from error
        self.vocab_size = self.processor.vocab_size()
        self.bos, self.eos = self.processor.bos_id(), self.processor.eos_id()
        if self.bos < 0 or self.eos < 0:
            raise UserError(f"tokenizer {self.path}: has no beginning-of-text or end-of-text piece")
        if self.processor.unk_id() in self.processor.encode(NEWLINE):
            raise UserError(f"tokenizer {self.path}: cannot write a newline, which ends every call")
        self.pad = self.eos
        self.pieces = [self._bytes_of(i) for i in range(self.vocab_size)]

    def _bytes_of(self, token: int) -> bytes:
        p = self.processor
        if p.is_control(token) or p.is_unknown(token):
            return b""
        if p.is_byte(token):
            return bytes([int(p.id_to_piece(token)[3:5], 16)])  # <0x0A>
        return p.id_to_piece(token).replace("▁", " ").encode()

    def encode(self, text: str) -> list[int]:
        """The ids of a text: nothing is added in front or behind."""
        return self.processor.encode(text)

    def decode(self, tokens) -> str:
        """The text of ids, whatever they are: control pieces say nothing, broken UTF-8 shows as U+FFFD."""
        return b"".join(self.pieces[token] for token in tokens).decode("utf-8", errors="replace")


@functools.cache
def tiny() -> Tokenizer:
    """The tokenizer of the tiny model, out of the package."""
    return Tokenizer(str(importlib.resources.files("retune_jax") / "assets" / "tiny" / "tokenizer.model"))


def train(texts, output: pathlib.Path, vocab_size: int) -> None:
    """Trains a small BPE model in LLaMA's manner on an iterable of texts and writes it to `output`.

    Digits stand alone, unknown characters fall back to bytes, nothing is normalised, and a newline, brackets and a comma
    with its space are pieces of their own, so that a list costs two tokens an item.
    """
    with disk.replacing(output) as fresh, fresh.open("wb") as file:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(texts),
            model_writer=file,
            model_type="bpe",
            vocab_size=vocab_size,
            split_digits=True,
            byte_fallback=True,
            normalization_rule_name="identity",
            remove_extra_whitespaces=False,
            add_dummy_prefix=False,
            user_defined_symbols=[NEWLINE, ",▁", "▁[", "]"],
            character_coverage=1.0,
            hard_vocab_limit=True,
            minloglevel=2,
        )


def lines(examples: int, problems: int):
    """The text that the tiny tokenizer is trained on: the base's corpus, and short problems of all tasks and methods."""
    import numpy as np

    from retune_jax import tasks
    from retune_jax.data.corpus import Corpus

    corpus = Corpus(seed=1, examples=examples, curriculum=((0, 12),))
    for i in range(examples):
        yield from _lines(corpus[i]["inputs"], corpus[i]["outputs"])
    rng = np.random.default_rng(0)
    for task in map(tasks.get, ("addition", "dynamic_programming", "parity")):
        for method in tasks.METHODS:
            for length in rng.integers(2, 9, problems).tolist():
                for context in task.written(task.sample(rng, length), method).walk():
                    yield from _lines(context.inputs(task.opening(method)), context.outputs())


def _lines(inputs, outputs):
    text = "".join(before + output for before, output in zip(inputs, outputs))
    return filter(None, text.split(NEWLINE))


def main(arguments: list[str]):
    """The command line: trains the tiny tokenizer."""
    cli.no_arguments(arguments)
    train(lines(examples=20_000, problems=300), pathlib.Path(OUTPUT.value), VOCAB_SIZE.value)


if __name__ == "__main__":
    from absl import flags

    from retune_jax import cli

    OUTPUT = flags.DEFINE_string("output", None, "The model file to write.", required=True)
    VOCAB_SIZE = flags.DEFINE_integer("vocab_size", 512, "Pieces, the 256 bytes included.")
    cli.run(main)
