"""The training sets: true texts, the paper's sampling and resampling, and the same proportions at every scale."""

import itertools
from collections import Counter

import numpy as np
import pytest

from retune_jax import tasks
from retune_jax.errors import UserError
from retune_jax.tasks.dynamic_programming import Choose, Indices, Sums
from retune_jax.tasks.task import Answer, Call, Task

ADDITION, DP, PARITY = (tasks.get(name) for name in ("addition", "dynamic_programming", "parity"))


def training_set(task, method, scale, seed=0):
    return list(task.training_set(method, np.random.default_rng(seed), scale))


@pytest.mark.parametrize("method", tasks.METHODS)
@pytest.mark.parametrize("task", [ADDITION, DP, PARITY], ids=lambda task: task.name)
def test_training_contexts_are_true_within_the_trained_lengths_and_follow_the_seed(task, method):
    examples = training_set(task, method, 0.002)
    assert examples
    assert examples == training_set(task, method, 0.002)
    assert examples != training_set(task, method, 0.002, seed=1)
    for context, copies in examples:
        problem = task.parse(context.prompt)
        truth = task.written(problem, method)
        assert context.inputs() == truth.inputs()
        assert [text.strip() for text in context.outputs()] == [text.strip() for text in truth.outputs()]
        assert copies >= 1
        assert task.length(problem) <= task.trained_lengths[1]


@pytest.mark.parametrize("task", [ADDITION, DP, PARITY], ids=lambda task: task.name)
def test_retune_contexts_are_distinct(task):
    prompts = [context.prompt for context, _ in training_set(task, "retune", 0.01)]
    assert len(prompts) == len(set(prompts))


def test_parity_is_resampled_by_the_rule_of_the_paper():
    assert PARITY.copies((0,), "retune", 1.0) == (1.0, 900)
    assert PARITY.copies((0,) * 10, "retune", 1.0) == (1.0, 1)
    assert PARITY.copies((0,) * 11, "retune", 1.0) == (0.1, 4)
    assert PARITY.copies((0,) * 16, "retune", 1.0) == (0.1, 1)
    assert PARITY.copies((0,) * 17, "retune", 1.0) == (pytest.approx(0.1 * 0.65), 1)
    assert PARITY.copies((0,) * 21, "retune", 1.0) == (pytest.approx(0.1 * 0.25), 1)
    scratchpad = [PARITY.copies((0,) * n, "scratchpad", 1.0)[1] for n in (1, 3, 4, 5, 9, 10, 14, 15)]
    assert scratchpad == [60, 60, 20, 10, 10, 4, 4, 1]
    baseline = [PARITY.copies((0,) * n, "baseline", 1.0)[1] for n in (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 14, 15)]
    assert baseline == [300, 500, 300, 200, 120, 50, 30, 10, 10, 4, 4, 1]


def test_parity_lists_without_recursion_are_as_many_as_in_the_paper():
    lists = list(PARITY.training_problems("baseline", np.random.default_rng(0), 1.0))
    assert len(lists) == len(set(lists))
    expected = {n: min(2**n, 15000, max(300, int(0.2 * 2**n))) for n in range(1, 22)}
    assert Counter(map(len, lists)) == expected
    lists = list(PARITY.training_problems("retune", np.random.default_rng(0), 1.0))
    assert len(set(lists)) == 250_000
    assert {len(bits) for bits in lists} == {21}


def test_addition_is_resampled_by_the_rule_of_the_paper():
    def rule(text):
        share, copies = ADDITION.copies(ADDITION.parse(text), "retune", 1.0)
        return share, round(copies, 6)

    assert rule("1 + 2") == (1.0, 1000)
    assert rule("11 + 02") == (1.0, 5)
    assert rule("111 + 222") == (0.15, 1)
    assert rule("111 + 022") == (1.0, 1)
    assert rule("0111 + 0222") == (0.15, 1)
    assert rule("1234567 + 1234567") == (0.15, 1)
    assert rule("12345678 + 12345678") == (0.35, 1)
    assert rule("1" * 11 + "+" + "2" * 11) == (0.35, 1)
    assert rule("1" * 12 + "+" + "2" * 12) == (1.0, 1)


def test_addition_pairs_are_drawn_as_in_the_paper():
    pairs = list(ADDITION.training_problems("baseline", np.random.default_rng(0), 1.0))
    assert len(pairs) == 304_000
    digits = Counter(tuple(len(number.lstrip("0")) for number in pair) for pair in pairs)
    for i, j in itertools.combinations_with_replacement(range(1, 16), 2):
        expected = 1000 * sum(start <= i for start in (1, 3, 6, 9, 12))
        assert digits[i, j] + (digits[j, i] if i != j else 0) == expected
        if i != j:
            assert abs(digits[i, j] - expected / 2) < 5 * (expected / 4) ** 0.5
    assert all(len(first) == len(second) for first, second in pairs)


def test_dynamic_programming_trains_on_every_list_by_the_rule_of_the_paper():
    lists = list(DP.training_problems("retune", np.random.default_rng(0), 1.0))
    assert len(lists) == len(set(lists)) == 177_144
    by_length = [DP.copies(Sums((1,) * n), "retune", 1.0) for n in (1, 2, 3, 4, 5)]
    assert by_length == [(1.0, 250), (1.0, 30), (1.0, 4), (1.0, 1), (0.15, 1)]
    assert DP.copies(Choose((1,) * 5), "retune", 1.0) == (0.15, 1)
    assert DP.copies(Indices((1, 1), (1, 1), True), "retune", 1.0) == (1.0, 30)
    assert [DP.copies(Choose((1,) * n), "baseline", 1.0)[1] for n in (2, 3, 4, 5)] == [100, 10, 3, 1]


@pytest.mark.parametrize("task", [ADDITION, DP, PARITY], ids=lambda task: task.name)
def test_a_smaller_set_keeps_the_proportions(task):
    """Short contexts are met at any scale, long ones rarely: without a correction the short ones would take over."""
    weights = []
    for scale in (0.02, 0.005):
        weight = Counter()
        for context, copies in training_set(task, "retune", scale):
            third = 3 * task.length(task.parse(context.prompt)) / (task.trained_lengths[1] + 1)
            weight[int(third)] += copies
        weights.append([weight[third] / weight.total() for third in range(3)])
    assert weights[1] == pytest.approx(weights[0], abs=0.08)


@pytest.mark.parametrize("task", [DP, PARITY], ids=lambda task: task.name)
@pytest.mark.parametrize("method", ["scratchpad", "baseline"])
def test_a_smaller_set_is_that_share_of_the_full_one(task, method):
    problems = task.training_problems(method, np.random.default_rng(0), 1.0)
    full = sum(task.copies(problem, method, 1.0)[1] for problem in problems)
    part = sum(copies for _, copies in training_set(task, method, 0.01))
    assert part == pytest.approx(0.01 * full, rel=0.1)


@pytest.mark.parametrize("scale", [0, -1, 1.5, float("nan")])
def test_a_scale_that_makes_no_set_is_a_users_mistake(scale):
    with pytest.raises(UserError, match="scale"):
        training_set(PARITY, "retune", scale)


class Hanoi(Task):
    """As little as a new task needs: moving a tower, with two calls in a context."""

    name = "hanoi"
    trained_lengths = (1, 3)
    evaluated_lengths = (1, 5)
    problems_per_length = 100

    def parse(self, text):
        discs, pegs = text.removeprefix("Move ").split(" discs ")
        return int(discs), pegs

    def prompt(self, problem):
        return f"Move {problem[0]} discs {problem[1]}"

    def solve(self, problem):
        discs, pegs = problem
        if discs == 1:
            return Answer(pegs[:2])
        first = yield Call(self.prompt((discs - 1, pegs[0] + pegs[2] + pegs[1])))
        last = yield Call(self.prompt((discs - 1, pegs[2] + pegs[1] + pegs[0])))
        return Answer(f"{first} {pegs[:2]} {last}")

    def length(self, problem):
        return problem[0]

    def sample(self, rng, length):
        return length, "".join(rng.permutation(list("abc")).tolist())

    def answer(self, problem):
        discs, pegs = problem
        # Without recursion: disc n moves every 2^n steps, always the same way round.
        odd, even = (pegs[0] + pegs[1] + pegs[2], pegs[0] + pegs[2] + pegs[1])
        where = [0] * discs
        moves = []
        for step in range(1, 2**discs):
            disc = (step & -step).bit_length() - 1
            ring = odd if (discs - disc) % 2 else even
            moves.append(ring[where[disc]] + ring[(where[disc] + 1) % 3])
            where[disc] = (where[disc] + 1) % 3
        return " ".join(moves)


def test_a_new_task_gets_every_method_and_a_training_set():
    task = Hanoi()
    for method in tasks.METHODS:
        examples = training_set(task, method, 1.0)
        prompts = [context.prompt for context, _ in examples]
        assert len(prompts) == len(set(prompts)) == 18
        for context, copies in examples:
            assert copies == 1
            assert task.grade(task.parse(context.prompt), method, context.segments[-1].text)
    assert task.scratchpad((2, "abc")) == "ac\ncb\nac ab cb"


@pytest.mark.parametrize("method", tasks.METHODS)
@pytest.mark.parametrize("task", [ADDITION, DP, PARITY], ids=lambda task: task.name)
def test_a_set_of_a_few_problems_a_length_holds_them_and_what_they_call(task, method):
    few = tasks.with_training_set(task, per_length=3, resample=True)
    examples = training_set(few, method, 1.0)
    assert {copies for _, copies in examples} == {1}
    tops = list(few.training_problems(method, np.random.default_rng(0), 1.0))
    shortest, longest = task.trained_lengths
    exist = {1: 2} if task is PARITY else {}  # lists of one bit
    assert Counter(map(task.length, tops)) == {n: exist.get(n, 3) for n in range(shortest, longest + 1)}
    expected = Counter(context.prompt for top in tops for context in task.written(top, method).walk())
    assert Counter(context.prompt for context, _ in examples) == expected, "a subproblem comes as often as it is called"
    assert training_set(task, method, 0.01) == training_set(tasks.get(task.name), method, 0.01), "the task itself is unchanged"


def test_without_resampling_every_distinct_context_comes_once():
    plain = tasks.with_training_set(PARITY, per_length=0, resample=False)
    examples = training_set(plain, "retune", 0.002)
    assert {copies for _, copies in examples} == {1}
    lengths = Counter(PARITY.length(PARITY.parse(context.prompt)) for context, _ in examples)
    assert lengths[21] == 500 and lengths[1] == 2 and lengths[5] == 32
    assert tasks.with_training_set(PARITY, per_length=0, resample=True) is PARITY
