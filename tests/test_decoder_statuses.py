"""Every status comes about by a scripted case, none hangs or raises, and none disturbs the problems beside it."""

import dataclasses

import jax
import numpy as np
import pytest
from scripted import SMALL, PlainRecursion, RandomModel, ScriptedModel, babble, hash_of, hostile, script_of

from retune_jax import tokenizer
from retune_jax.decoding import RecursiveDecoder
from retune_jax.errors import UserError
from retune_jax.protocol import SOLUTION, STATUSES, Context, Segment

TOKENIZER = tokenizer.tiny()
CONFIG = dataclasses.replace(
    SMALL, slots=4, window=64, stack_tokens=100, max_tokens=120, max_calls=4, tokens_per_step=5, steps_per_advance=3
)
LOST = TOKENIZER.encode("0")[0]


def call(callee, words=""):
    return Segment(f" {words}Call: {callee.prompt}\n", callee)


def says(prompt, *texts):
    return Context(prompt, tuple(Segment(text) for text in texts))


def chain(prompts, *last):
    """Each prompt calls the next, and answers when it returns; the last one writes the given texts."""
    context = says(prompts[-1], *last)
    for prompt in reversed(prompts[:-1]):
        context = Context(prompt, (call(context), Segment(" 0")))
    return context


def calls(prompt, *callees, end=" 3"):
    """A context that calls one after the other."""
    return Context(prompt, (*(call(callee) for callee in callees), Segment(end)))


ONE, TWO = says("one", " 1"), says("two", " 2\nAnswer: 22")
LONG = "1" * 30

# What the model would write if nobody stopped it, and the status that it ends with.
CASES = {
    "answer": (ONE, "ok"),
    "answer with words": (TWO, "ok"),
    "as deep as may be": (chain(["g 1", "g 2", "g 3", "g 4"], " 7"), "ok"),
    "two calls": (calls("pair", ONE, TWO), "ok"),
    "the same call twice": (calls("again", ONE, ONE), "ok"),
    "words before a call": (Context("wordy", (call(ONE, "First we Call: that\nand "), Segment(" 3"))), "ok"),
    "EOS first": (says("silent", ""), "ok"),
    "EOS first in a callee": (calls("quiet", says("hush", "")), "ok"),
    "call without newline": (says("a", " Call: one"), "bad_call"),
    "empty call": (says("b", " Call: \n"), "bad_call"),
    "space behind the newline": (says("c", " Call: one\n "), "bad_call"),
    "bad call in a callee": (chain(["d", "e"], " Call:"), "bad_call"),
    "a call too deep": (chain(["f 1", "f 2", "f 3", "f 4"], " Call: f 5\n"), "max_depth"),
    "calls itself": (says("h", " Call: h\n"), "cycle"),
    "calls an ancestor": (chain(["i 1", "i 2", "i 3"], " Call: i 1\n"), "cycle"),
    "text too long": (says("j", " " + LONG * 2), "context_full"),
    "call too long": (says("k", f" Call: {LONG * 2}\n"), "context_full"),
    "text too long in a callee": (chain(["l 1", "l 2"], " " + LONG * 2), "context_full"),
    "return too long": (calls(f"{LONG} m", says("n", " " + LONG)), "context_full"),
    "exactly as long as the window": (says("o", " " + "1" * 58), "ok"),
    "callers too long": (chain([f"p {LONG[:20]}{n}" for n in range(3)], " 1"), "stack_full"),
    "too many calls": (calls("q", *(says(f"{n}", " 1") for n in range(4)), end=" Call: 5\n"), "call_budget"),
    "too many tokens": (calls("r", *(says(f"s {n}", f" {LONG}{LONG[:15]}\nAnswer: 1") for n in range(3))), "token_budget"),
}


@pytest.fixture(scope="module")
def script():
    return script_of(TOKENIZER, (tree for tree, _ in CASES.values()), SOLUTION)


@pytest.fixture(scope="module")
def solver(script):
    return RecursiveDecoder(ScriptedModel(script, TOKENIZER.vocab_size, LOST), TOKENIZER, CONFIG)


def test_the_cases_cover_every_status():
    assert {status for _, status in CASES.values()} == set(STATUSES)


@pytest.mark.parametrize("shift", [0, 1, 10])
def test_every_case_ends_with_its_status_whatever_is_beside_it(solver, script, shift):
    plain = PlainRecursion(lambda ids: script.get(tuple(ids), LOST), TOKENIZER, CONFIG)
    cases = [*CASES.items()][shift:] + [*CASES.items()][:shift]
    results = solver.solve([tree.prompt for _, (tree, _) in cases])
    for (name, (tree, status)), result in zip(cases, results):
        assert result.status == status, name
        assert result == plain.solve(tree.prompt), name
        assert (result.context == tree) == (status == "ok"), name


def test_a_window_is_used_to_its_last_token(solver, script):
    (result,) = solver.solve(["o"])
    length = 1 + len(TOKENIZER.encode(" o" + SOLUTION)) + len(TOKENIZER.encode(result.text))
    assert (length, result.status) == (CONFIG.window, "ok")


def test_a_prompt_that_no_window_holds_is_context_full_and_the_others_are_solved(solver):
    results = solver.solve(["1" * 60, "one", "1" * 600, "two"])
    assert [(r.status, r.value, r.tokens) for r in results] == [
        ("context_full", "", 0),
        ("ok", "1", 3),
        ("context_full", "", 0),
        ("ok", "22", 9),
    ]
    assert results[0].context == Context("1" * 60, (), "context_full")


def test_a_model_that_writes_for_ever_ends_within_its_limits(solver):
    # Off its script the model repeats a digit for ever; nothing but the limits stops it.
    assert {result.status for result in solver.solve(["not", "on", "the script"])} == {"context_full"}


def test_rubbish_of_any_bytes_and_control_pieces_ends_by_a_status_like_the_plain_recursion():
    bias_VV = babble(TOKENIZER) / 20  # now every piece is written now and then, control pieces and broken UTF-8 too
    bias_VV[:, TOKENIZER.eos] += 0.05
    model = RandomModel(bias_VV)
    logits = jax.jit(lambda prefix, last: model.logits(prefix[None, None], last[None, None])[0, 0])
    plain = PlainRecursion(lambda ids: int(np.argmax(logits(np.uint32(hash_of(ids)), np.int32(ids[-1])))), TOKENIZER, CONFIG)
    prompts = [f"{number}" for number in range(40)]
    results = RecursiveDecoder(model, TOKENIZER, CONFIG).solve(prompts)
    assert results == [plain.solve(prompt) for prompt in prompts]
    assert max(result.tokens for result in results) <= CONFIG.max_tokens


def test_hostile_models_end_within_their_limits_and_alike_whatever_the_schedule():
    """benchmarks/hostile.py is the long version."""
    schedule = {"slots": 7, "tokens_per_step": 3, "steps_per_advance": 5, "draft": False, "stack": "recompute", "memo": 64}
    prompts, statuses = [f"{case}" for case in range(60)], set()
    for bias_VV in hostile(TOKENIZER).values():
        model = RandomModel(bias_VV)
        results = RecursiveDecoder(model, TOKENIZER, CONFIG).solve(prompts)
        again = RecursiveDecoder(model, TOKENIZER, dataclasses.replace(CONFIG, **schedule)).solve(prompts[::-1])
        assert results == again[::-1]
        for result in results:
            assert result.tokens <= CONFIG.max_tokens and result.calls <= CONFIG.max_calls and result.depth <= CONFIG.max_depth
        statuses |= {result.status for result in results}
    assert len(statuses & set(STATUSES)) == len(statuses) > 3


@pytest.mark.parametrize(
    ("name", "value"), [("slots", 0), ("window", 0), ("tokens_per_step", 65), ("max_depth", -1), ("temperature", -0.5)]
)
def test_sizes_that_no_decoder_can_have_are_a_users_mistake(name, value):
    with pytest.raises(UserError, match=rf"decode\.{name} is {value}"):
        dataclasses.replace(CONFIG, **{name: value})
