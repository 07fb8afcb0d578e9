"""A mistake is found where it was made, and nothing that a model writes gets in the way."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scripted import bits_tree

from retune_jax import tasks
from retune_jax.evaluation import errors
from retune_jax.protocol import STATUSES, Context, Segment

ROOT = Path(__file__).parents[1]
ADDITION, DP, PARITY = (tasks.get(name) for name in ("addition", "dynamic_programming", "parity"))


def classified(task, tree):
    problem = task.parse(tree.prompt)
    correct = task.grade(problem, "retune", tree.segments[-1].text)
    return errors.classify(task, "retune", tree, "ok", correct), [m.context.prompt for m in errors.mistakes(task, tree)]


@pytest.mark.parametrize("name", tasks.names())
@pytest.mark.parametrize("method", tasks.METHODS)
def test_a_true_solution_has_no_mistake(name, method):
    task = tasks.get(name)
    for seed in range(5):
        tree = task.written(task.sample(np.random.default_rng(seed), 6), method)
        assert errors.classify(task, method, tree, "ok", True) is None
        assert method != "retune" or not list(errors.mistakes(task, tree))


def test_a_computation_is_wrong_where_it_was_made_and_only_there():
    tree = bits_tree((1, 1, 0, 1), at2=0)
    assert classified(PARITY, tree) == ("wrong_computation", ["What is the parity of [0, 1]?"])
    (mistake,) = errors.mistakes(PARITY, tree)
    assert (mistake.kind, mistake.segment.text, mistake.right) == ("wrong_computation", " 0", " 1")
    assert classified(PARITY, bits_tree((1,), at1=0)) == ("wrong_computation", ["What is the parity of [1]?"])


def test_two_mistakes_that_cancel_are_repaired():
    tree = bits_tree((1, 1, 0, 1), at2=0, at4=1)
    assert classified(PARITY, tree) == (
        "repaired",
        ["What is the parity of [0, 1]?", "What is the parity of [1, 1, 0, 1]?"],
    )


def test_a_call_for_something_else_is_a_wrong_call_whatever_it_returns():
    callee = bits_tree((1, 1, 1))  # of [1, 1, 0, 1], it should be [1, 0, 1]
    call = Segment(f" Call: {callee.prompt}\n", callee)
    top = PARITY.prompt((1, 1, 0, 1))
    assert classified(PARITY, Context(top, (call, Segment(" 0")))) == ("wrong_call", [top])
    assert classified(PARITY, Context(top, (call, Segment(" 1")))) == ("repaired", [top])


def test_a_call_for_no_problem_is_the_callers_mistake_alone():
    callee = Context("What is the weather?", (Segment(" fine"),))
    top = Context(PARITY.prompt((1, 0)), (Segment(f" Call: {callee.prompt}\n", callee), Segment(" 0")))
    assert classified(PARITY, top) == ("wrong_call", [top.prompt])


def test_an_answer_in_place_of_a_call_and_a_call_in_place_of_an_answer():
    early = Context(PARITY.prompt((1, 0)), (Segment(" 0"),))
    assert classified(PARITY, early) == ("wrong_call", [early.prompt])
    callee = bits_tree((1,))
    late = Context(PARITY.prompt((0,)), (Segment(f" Call: {callee.prompt}\n", callee), Segment(" 1")))
    assert classified(PARITY, late) == ("wrong_computation", [late.prompt])


def test_other_words_with_the_same_meaning_are_no_mistake():
    problem = DP.parse("[3, 2]")
    tree = DP.written(problem, "retune")
    sums = tree.segments[0].callee
    spoken = Context(
        sums.prompt,
        (Segment(f" Well, Call: {sums.segments[0].callee.prompt}\n", sums.segments[0].callee), Segment(" Answer: [3, 2]")),
    )
    tree = Context(tree.prompt, (Segment(tree.segments[0].text, spoken), *tree.segments[1:]))
    assert classified(DP, tree) == (None, [])


def test_the_first_mistake_is_the_one_that_was_written_first():
    """The top context calls the sums, which are added up wrongly, and then copies them wrongly into its second call."""
    sums = Context("Create dp array [2]", (Segment(" Return [0] if negative else element.\nAnswer: [1]"),))
    indices = Context("Create chosen indices array: sum array [9], item array [2], can use item True", (Segment(" [2]"),))
    calls = (Segment(f" Call: {context.prompt}\n", context) for context in (sums, indices))
    top = Context(DP.prompt(DP.parse("[2]")), (*calls, Segment(" [2]")))
    assert [m.kind for m in errors.mistakes(DP, top)] == ["wrong_computation", "wrong_call"]
    assert [m.context for m in errors.mistakes(DP, top)] == [sums, top]
    assert classified(DP, top)[0] == "wrong_computation"


def test_a_wrong_carry_is_a_wrong_computation():
    callee = Context("8 + 7", (Segment(" Carry 0, Output 5"),))
    top = Context("48 + 07", (Segment(" Call: 8 + 7\n", callee), Segment(" Carry 0, Output 45")))
    assert classified(ADDITION, top) == ("wrong_computation", ["8 + 7"])


@pytest.mark.parametrize("status", [status for status in STATUSES if status != "ok"])
@pytest.mark.parametrize("method", tasks.METHODS)
def test_a_problem_that_ended_early_is_classed_by_its_status(status, method):
    cut = Context(
        PARITY.prompt((1, 0)),
        (Segment(" Call: What is the parity of [0]?\n", Context("What is the parity of [0]?", (), status)),),
        status,
    )
    for tree in (cut, Context(PARITY.prompt((1, 0)), (), status)):
        assert errors.classify(PARITY, method, tree, status, False) == status


def test_a_method_without_calls_is_right_or_wrong():
    tree = PARITY.written((1, 0), "baseline")
    assert errors.classify(PARITY, "baseline", tree, "ok", True) is None
    assert errors.classify(PARITY, "baseline", tree, "ok", False) == "wrong_computation"


PROMPTS = [
    "What is the parity of [1, 0]?",
    "12 + 34",
    "Create dp array [1, -2]",
    "Create chosen indices array: sum array [1], item array [1, 2], can use item True",
]
PIECES = [
    *PROMPTS,
    " Call: ",
    "\n",
    "Answer:",
    "Carry 1, Output 5",
    "[1, 0]",
    "[]",
    " 1",
    "True",
    "²",
    "9" * 30,
    "-",
    "",
    "Call:",
]
TEXTS = st.lists(st.sampled_from(PIECES) | st.text(max_size=5), max_size=4).map("".join)
TREES = st.recursive(
    st.builds(Context, TEXTS, st.lists(st.builds(Segment, TEXTS), max_size=2).map(tuple)),
    lambda inner: st.builds(Context, TEXTS, st.lists(st.builds(Segment, TEXTS, st.none() | inner), max_size=3).map(tuple)),
    max_leaves=6,
)


@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.too_slow])
@given(st.sampled_from(tasks.names()), st.sampled_from((*tasks.METHODS, *tasks.ABLATIONS)), TREES, st.booleans())
def test_nothing_that_a_model_writes_raises(name, method, tree, correct):
    task = tasks.get(name)
    assert errors.classify(task, method, tree, "ok", correct) in (None, "wrong_call", "wrong_computation", "repaired")
    text = tree.segments[-1].text if tree.segments else ""
    assert task.grade(task.sample(np.random.default_rng(0), 3), method, text) in (True, False)


@pytest.mark.parametrize("value", ["", "abc", "²", "1e9", "9" * 5000, "[1, x]", "None", "-"])
def test_a_rubbish_value_is_the_callees_mistake(value):
    callee = Context("What is the parity of [0]?", (Segment(f" {value}"),))
    top = Context("What is the parity of [1, 0]?", (Segment(" Call: What is the parity of [0]?\n", callee), Segment(" 1")))
    kind, where = classified(PARITY, top)
    assert kind == "repaired" and where[0] == callee.prompt


def test_a_deep_tree_is_searched_to_its_end():
    bits = tuple(np.random.default_rng(0).integers(0, 2, 500).tolist())
    assert classified(PARITY, bits_tree(bits)) == (None, [])
    wrong = bits_tree(bits, at1=1 - bits[-1])
    assert classified(PARITY, wrong) == ("wrong_computation", [PARITY.prompt(bits[-1:])])
