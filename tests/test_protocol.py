"""The text protocol: what a generated text means, and how a tree of contexts is read."""

import doctest

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from retune_jax import protocol
from retune_jax.protocol import AnswerRead, BadRead, CallRead, Context, Segment, opening, paste, read

# A busy machine is no reason to fail.
UNHURRIED = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

LEAF = Context("2 + 3", (Segment(" Carry 0, Output 5"),))
TWO_CALLS = Context("top", (Segment(" Call: 2 + 3\n", LEAF), Segment(" Call: b\n", LEAF), Segment(" done")))
BEFORE_THE_LAST = " top\nSolution: Call: 2 + 3\nReturn: Carry 0, Output 5\nAnswer: Call: b\nReturn: Carry 0, Output 5\nAnswer:"


def test_the_worked_example_of_the_module_is_true():
    assert doctest.testmod(protocol).failed == 0


@pytest.mark.parametrize(
    ("text", "meaning"),
    [
        (" Call: 2 + 3\n", CallRead("2 + 3")),
        (" Some words first. Call: 2 + 3\n", CallRead("2 + 3")),
        (" Call: one Call: two\n", CallRead("two")),
        (" Call:2 + 3 \n\n", CallRead("2 + 3")),
        (" Answer: 5 Call: 2 + 3\n", CallRead("2 + 3")),
        (" Call: 2 + 3", BadRead()),
        (" Call: 2 + 3\nand more", BadRead()),
        (" Call:\n", BadRead()),
        (" Call: \n", BadRead()),
        ("Call:", BadRead()),
        (" 5", AnswerRead("5")),
        (" 5\n", AnswerRead("5")),
        (" Append it.\nAnswer: [1, 2]", AnswerRead("[1, 2]")),
        (" Answer: 1\nAnswer: 2", AnswerRead("2")),
        (" Call with words but no colon", AnswerRead("Call with words but no colon")),
        ("", AnswerRead("")),
    ],
)
def test_a_segment_means_what_the_protocol_says(text, meaning):
    assert read(text) == meaning


@UNHURRIED
@given(st.text() | st.text(alphabet="Cal:Answer \n1", max_size=30))
def test_reading_never_raises_and_values_are_stripped(text):
    reading = read(text)
    if isinstance(reading, CallRead):
        assert reading.prompt and reading.prompt == reading.prompt.strip()
    if isinstance(reading, AnswerRead):
        assert reading.value == reading.value.strip()


@UNHURRIED
@given(st.text())
def test_what_is_called_is_what_opens(prompt):
    reading = read(f" Call: {prompt}\n")
    if "Call:" not in prompt and prompt.strip():
        assert reading == CallRead(prompt.strip())


def test_a_window_is_its_inputs_and_outputs_in_turn():
    assert TWO_CALLS.inputs() == [opening("top"), paste("Carry 0, Output 5"), paste("Carry 0, Output 5")]
    assert TWO_CALLS.outputs() == [" Call: 2 + 3\n", " Call: b\n", " done"]
    assert TWO_CALLS.text == BEFORE_THE_LAST + " done"
    assert TWO_CALLS.inputs("")[0] == " top"


def test_an_unfinished_context_has_no_value_and_still_a_text():
    assert Context("p", (), "token_budget").value == ""
    assert Context("p", (), "token_budget").text == " p\nSolution:"
    cut = Context("p", (Segment(" Call: q\n"),), "max_depth")
    assert cut.value == ""
    assert cut.text == " p\nSolution: Call: q\n"


def test_contexts_are_walked_in_the_order_in_which_they_open():
    first = Context("first", (Segment(" Call: 2 + 3\n", LEAF), Segment(" 1")))
    last = Context("last", (Segment(" 2"),))
    top = Context("top", (Segment(" Call: first\n", first), Segment(" Call: last\n", last), Segment(" 3")))
    assert [context.prompt for context in top.walk()] == ["top", "first", "2 + 3", "last"]


def test_turns_come_in_the_order_of_generation_each_with_its_window():
    assert list(TWO_CALLS.turns()) == [
        (" top\nSolution:", " Call: 2 + 3\n"),
        (" 2 + 3\nSolution:", " Carry 0, Output 5"),
        (" top\nSolution: Call: 2 + 3\nReturn: Carry 0, Output 5\nAnswer:", " Call: b\n"),
        (" 2 + 3\nSolution:", " Carry 0, Output 5"),
        (BEFORE_THE_LAST, " done"),
    ]


def deep(depth, value="0"):
    context = Context("leaf", (Segment(f" {value}"),))
    for _ in range(depth):
        context = Context("node", (Segment(" Call: node\n", context), Segment(" 1")))
    return context


def test_trees_far_deeper_than_the_python_stack_are_compared_walked_and_shown():
    tree = deep(5000)
    assert tree == deep(5000)
    assert hash(tree) == hash(deep(5000))
    assert tree != deep(4999)
    assert tree != deep(5000, value="1")
    assert sum(1 for _ in tree.walk()) == 5001
    assert sum(1 for _ in tree.turns()) == 10001
    assert "node" in repr(tree)


def test_equality_sees_which_segment_a_callee_belongs_to():
    left = Context("p", (Segment(" a", LEAF), Segment(" a")))
    right = Context("p", (Segment(" a"), Segment(" a", LEAF)))
    assert left != right
    assert left != "p"
