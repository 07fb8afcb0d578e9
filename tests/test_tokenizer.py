"""Splicing token ids equals encoding the spliced text, text comes back as it was, and a bad file is one clear line."""

import io

import numpy as np
import pytest
import sentencepiece
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from retune_jax import tasks, tokenizer
from retune_jax.errors import UserError
from retune_jax.protocol import CALL, CallRead, paste, read

UNHURRIED = settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])
# SentencePiece writes a space as U+2581, so that one character cannot be told from it.
TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="▁"), max_size=60)


def written_texts(lengths):
    """Texts of all tasks and methods."""
    rng = np.random.default_rng(0)
    for task in map(tasks.get, tasks.names()):
        for method in tasks.METHODS:
            for length in lengths:
                for context in task.written(task.sample(rng, length), method).walk():
                    yield "".join(
                        before + output for before, output in zip(context.inputs(task.opening(method)), context.outputs())
                    )


@pytest.fixture(scope="module")
def llama_like(tmp_path_factory):
    """A model with the options of LLaMA's own: a dummy space in front, byte fallback, a newline is a byte piece."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([line for text in written_texts((2, 5, 9)) for line in text.split("\n") if line]),
        model_writer=model,
        model_type="bpe",
        vocab_size=500,
        split_digits=True,
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        add_dummy_prefix=True,
        allow_whitespace_only_pieces=True,
        character_coverage=0.99995,
        minloglevel=2,
    )
    path = tmp_path_factory.mktemp("llama") / "tokenizer.model"
    path.write_bytes(model.getvalue())
    as_shipped = sentencepiece.SentencePieceProcessor(model_file=str(path))
    assert as_shipped.encode("a\nb", out_type=str)[0] == "▁a", "this model adds a space"
    assert as_shipped.encode("a\nb", out_type=str)[-2] == "<0x0A>"
    return tokenizer.Tokenizer(path)


@pytest.fixture(scope="module", params=["tiny", "llama_like"])
def model(request):
    return tokenizer.tiny() if request.param == "tiny" else request.getfixturevalue("llama_like")


def assert_splices(model, tree, opening):
    """What the decoder does with ids gives the ids of the text, in every context of a tree."""
    for context in tree.walk():
        window, ids = "", []
        for before, segment in zip(context.inputs(opening), context.segments):
            window += before + segment.text
            ids += model.encode(before) + model.encode(segment.text)
            assert model.encode(window) == ids
            if segment.callee is None:
                continue
            # The callee's prompt is what the call segment holds between its last "Call:" and the newline.
            words, colon, prompt = segment.text.rstrip("\n").rpartition(CALL)
            call, end = model.encode(words + colon), model.encode("\n")
            whole = model.encode(segment.text)
            assert whole[: len(call)] == call and whole[-len(end) :] == end
            inner = whole[len(call) : -len(end)]
            assert read(segment.text) == CallRead(segment.callee.prompt)
            assert inner == model.encode(prompt) == model.encode(f" {segment.callee.prompt}")
            assert inner + model.encode(opening) == model.encode(segment.callee.inputs(opening)[0])
            # The value is the end of the callee's answer, and stands between two fixed texts.
            answer, value = segment.callee.segments[-1].text, segment.callee.value
            assert answer.endswith(f" {value}")
            known = model.encode(f" {value}")
            assert model.encode(answer)[-len(known) :] == known
            assert model.encode("Return:") + known + model.encode("\nAnswer:") == model.encode(paste(value))


@settings(UNHURRIED, max_examples=40)
@given(
    st.sampled_from(tasks.names()),
    st.sampled_from((*tasks.METHODS, *tasks.ABLATIONS)),
    st.integers(1, 24),
    st.integers(min_value=0, max_value=2**32),
)
def test_splicing_ids_is_encoding_the_spliced_text(model, name, method, length, seed):
    task = tasks.get(name)
    problem = task.sample(np.random.default_rng(seed), min(length, task.evaluated_lengths[1]))
    assert_splices(model, task.written(problem, method), task.opening(method))


@pytest.mark.parametrize("name", tasks.names())
def test_splicing_holds_far_beyond_the_trained_lengths(model, name):
    task = tasks.get(name)
    length = 60 if name in ("addition", "dynamic_programming", "parity") else task.evaluated_lengths[1]
    problem = task.sample(np.random.default_rng(1), length)
    assert_splices(model, task.written(problem, "retune"), task.opening("retune"))


@UNHURRIED
@given(TEXT)
@example("")
@example("  two  spaces \n\n and lines \t\r\n")
@example("<s></s><unk><0x0A>")
@example("0①²½ﬁ é é 漢字 😀 \x00\ufeff\u2028\u200b")
def test_any_text_comes_back_as_it_was(model, text):
    ids = model.encode(text)
    assert model.decode(ids) == text
    assert b"".join(model.pieces[i] for i in ids) == text.encode()
    assert not {model.bos, model.eos, 0} & set(ids)


def test_a_space_is_never_added_or_lost(model):
    assert model.decode(model.encode("a")) == "a"
    assert model.encode(" a") != model.encode("a")
    assert model.decode(model.encode(" a ")) == " a "


def test_broken_characters_and_control_pieces_decode_to_something(model):
    byte = model.pieces.index(b"\xf0")
    assert model.decode([model.bos, byte, *model.encode("a"), model.eos]) == "�a"
    assert model.decode([]) == ""


def test_control_pieces_are_apart_and_stand_for_nothing(model):
    assert len(model.pieces) == model.vocab_size
    assert len({model.bos, model.eos}) == 2
    assert [i for i, piece in enumerate(model.pieces) if not piece] == sorted({0, model.bos, model.eos})
    assert model.pieces[model.pad] == b""


def test_digits_stand_alone(model):
    assert all(len(piece) == 1 or not any(byte in b"0123456789" for byte in piece) for piece in model.pieces)
    assert [model.pieces[i] for i in model.encode("907")] == [b"9", b"0", b"7"]


def test_a_newline_stands_alone(model):
    assert {piece for piece in model.pieces if b"\n" in piece} == {b"\n"}
    assert len(model.encode("\n\n\n")) == 3


def test_the_tiny_model_is_small_and_cuts_a_list_in_two_tokens_an_item():
    model = tokenizer.tiny()
    assert model.vocab_size <= 512
    assert len(model.encode(" [1, 0, 1, 1]")) == 2 + 4 + 3
    assert model.pieces[model.encode("\n")[0]] == b"\n" and len(model.encode("\n")) == 1
    assert tokenizer.tiny() is model


def test_the_command_that_makes_a_tokenizer_makes_one_of_the_asked_size(tmp_path):
    tokenizer.train(["one two [1, 2]", "two three [3, 1]"] * 50, tmp_path / "tokenizer.model", 290)
    model = tokenizer.Tokenizer(tmp_path / "tokenizer.model")
    assert model.vocab_size == 290
    assert model.decode(model.encode("one [3, 2]\nfour")) == "one [3, 2]\nfour"


def test_a_missing_or_damaged_file_is_one_clear_line(tmp_path):
    whole = tokenizer.tiny().path.read_bytes()
    damaged = {
        "missing": None,
        "folder": None,
        "empty": b"",
        "text": b"not a model\n" * 100,
        "noise": np.random.default_rng(0).bytes(5000),
        "half": whole[: len(whole) // 2],
        "short": whole[:-1],
    }
    (tmp_path / "folder").mkdir()
    for name, content in damaged.items():
        path = tmp_path / name
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(UserError) as error:
            tokenizer.Tokenizer(path)
        assert str(path) in str(error.value) and "\n" not in str(error.value), name


def train(path, **options):
    lines = [line for text in written_texts((2, 5)) for line in text.split("\n") if line]
    with path.open("wb") as file:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(lines), model_writer=file, model_type="bpe", vocab_size=450, minloglevel=2, **options
        )
    return path


def test_a_model_that_would_join_spaces_and_drop_newlines_reads_text_as_it_stands(tmp_path):
    """SentencePiece's own defaults, which some released models were made with."""
    path = train(tmp_path / "tokenizer.model", byte_fallback=True, split_digits=True)
    text = " What is the parity of [0, 1]?\nSolution:  Call:"
    as_shipped = sentencepiece.SentencePieceProcessor(model_file=str(path))
    assert as_shipped.decode(as_shipped.encode(text)) != text
    ours = tokenizer.Tokenizer(path)
    assert ours.decode(ours.encode(text)) == text
    assert ours.encode(" 1") + ours.encode("\nSolution:") == ours.encode(" 1\nSolution:")


def test_a_model_that_cannot_write_a_newline_is_refused(tmp_path):
    with pytest.raises(UserError, match="cannot write a newline"):
        tokenizer.Tokenizer(train(tmp_path / "tokenizer.model"))


def test_a_model_without_ends_of_text_is_refused(tmp_path):
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["one two three"] * 20),
        model_writer=model,
        vocab_size=20,
        model_type="bpe",
        bos_id=-1,
        hard_vocab_limit=False,
        minloglevel=2,
    )
    (tmp_path / "tokenizer.model").write_bytes(model.getvalue())
    with pytest.raises(UserError, match="beginning-of-text"):
        tokenizer.Tokenizer(tmp_path / "tokenizer.model")
