"""Tasks whose contexts call several times or another task, and the variants of all tasks that studies compare."""

import numpy as np
import pytest

from retune_jax import tasks
from retune_jax.errors import UserError
from retune_jax.evaluation.errors import WRONG_CALL, WRONG_COMPUTATION, mistakes
from retune_jax.protocol import Context, Segment
from retune_jax.tasks import trace

SORT, MULTIPLICATION, SAT = (tasks.get(name) for name in ("merge_sort", "multiplication", "satisfiability"))
ALL_TASKS = list(map(tasks.get, tasks.names()))
named = pytest.mark.parametrize("task", ALL_TASKS, ids=lambda task: task.name)


def depth(tree):
    return 1 + max((depth(segment.callee) for segment in tree.segments if segment.callee), default=0)


def samples(task, length, number=20, seed=0):
    rng = np.random.default_rng(seed)
    return [task.sample(rng, length) for _ in range(number)]


# Trees


def test_sorting_halves_the_list_so_that_the_tree_is_as_deep_as_the_logarithm():
    for length, levels in ((1, 1), (2, 2), (8, 4), (9, 5), (24, 6)):
        tree = trace(SORT, SORT.sample(np.random.default_rng(0), length))
        assert depth(tree) == levels and len(list(tree.walk())) == 2 * length - 1


def test_a_product_is_summed_by_contexts_of_addition():
    tree = trace(MULTIPLICATION, ("123", "456"))
    owners = {context.prompt: MULTIPLICATION.reading(context.prompt)[0].name for context in tree.walk()}
    assert owners["123 * 45"] == "multiplication" and owners["055350 + 000738"] == "addition"
    assert tree.value == "056088" and set(owners.values()) == {"multiplication", "addition"}
    addition = tasks.get("addition")
    for context in tree.walk():
        if "+" in context.prompt:
            assert context == trace(addition, addition.parse(context.prompt))


def test_a_prompt_that_no_task_reads_is_refused_in_the_words_of_the_task_itself():
    with pytest.raises(tasks.ProblemError, match="no times sign; a problem of multiplication is"):
        MULTIPLICATION.reading("12 - 3")


def test_a_mistake_in_a_context_of_the_other_task_is_found_there():
    tree = trace(MULTIPLICATION, ("12", "34"))
    *calls, _ = tree.segments
    total = calls[2].callee
    wrong = Context(total.prompt, (total.segments[0], Segment(" Carry 0, Output 0409")))
    tree = Context(tree.prompt, (*calls[:2], Segment(calls[2].text, wrong), Segment(" 0409")))
    (mistake,) = mistakes(MULTIPLICATION, tree)
    assert (mistake.kind, mistake.context) == (WRONG_COMPUTATION, wrong)
    bad = Context("12 * 34", (calls[0], Segment(" Call: 12 * 3\n", calls[0].callee)))
    assert [found.kind for found in mistakes(MULTIPLICATION, bad)] == [WRONG_CALL]


def test_the_second_branch_is_searched_only_where_the_first_fails():
    for formula in samples(SAT, 5, 60):
        for context in trace(SAT, formula).walk():
            *calls, answer = context.segments
            values = [call.callee.value for call in calls]
            assert values in ([], ["yes"], ["no", "yes"], ["no", "no"])
            assert answer.text == f" {values[-1]}" if values else answer.text in (" yes", " no")


def test_a_truth_table_agrees_with_the_search_on_formulas_of_every_trained_and_evaluated_length():
    for length in range(1, 11):
        formulas = samples(SAT, length, 40, seed=length)
        answers = [SAT.answer(formula) for formula in formulas]
        assert [trace(SAT, formula).value for formula in formulas] == answers
        assert 8 <= answers.count("yes") <= 32, "half of the formulas are to be satisfiable"
    assert SAT.answer(()) == "yes" and SAT.answer(((),)) == "no" and SAT.answer(((7, -7),)) == "yes"


def test_a_formula_too_large_for_the_truth_table_is_a_users_mistake():
    with pytest.raises(UserError, match="30 variables cannot be drawn: at most 20"):
        SAT.sample(np.random.default_rng(0), 30)


@pytest.mark.parametrize("task", [SORT, MULTIPLICATION, SAT], ids=lambda task: task.name)
@pytest.mark.parametrize("method", [*tasks.METHODS, *tasks.ABLATIONS])
def test_training_sets_are_distinct_true_and_within_the_trained_lengths(task, method):
    examples = list(task.training_set(method, np.random.default_rng(0), 0.02))
    prompts = [context.prompt for context, _ in examples]
    assert prompts and len(prompts) == len(set(prompts))
    for context, copies in examples:
        owner, problem = task.reading(context.prompt)
        assert copies >= 1 and owner.grade(problem, method, context.segments[-1].text)
        if owner is task:
            assert context.inputs() == task.written(problem, method).inputs()
            assert task.length(problem) <= task.trained_lengths[1]


# Ablations


@named
def test_without_isolation_all_that_is_written_and_pasted_stands_in_one_context(task):
    problem = task.sample(np.random.default_rng(3), 3)
    tree, whole = task.written(problem, "retune"), task.written(problem, "no_isolation")
    (segment,) = whole.segments
    assert whole.prompt == tree.prompt and segment.callee is None
    pieces = []  # in the order of generation: every segment, every paste
    for context in tree.walk():
        pieces += [text.strip() for text in (*context.outputs(), *context.inputs()[1:])]
    for piece in pieces:
        assert piece in segment.text
    assert sum(map(len, pieces)) <= len(segment.text)
    assert task.grade(problem, "no_isolation", segment.text)


@named
def test_without_carry_over_the_contexts_are_the_same_but_for_the_values_pasted(task):
    problem = task.sample(np.random.default_rng(3), 3)
    tree, bare = task.written(problem, "retune"), task.written(problem, "no_carry")
    for with_value, without in zip(tree.walk(), bare.walk(), strict=True):
        assert with_value.outputs() == without.outputs() and with_value.prompt == without.prompt
        assert without.inputs()[1:] == ["Return: \nAnswer:"] * (len(without.segments) - 1)
    assert (tree == bare) == (len(tree.segments) == 1)
    few = tasks.with_training_set(task, per_length=2, resample=True)
    sets = [list(few.training_set(method, np.random.default_rng(0), 1.0)) for method in ("retune", "no_carry")]
    assert [c.outputs() for c, _ in sets[0]] == [c.outputs() for c, _ in sets[1]]
    assert all("Return: \n" in c.text for c, _ in sets[1] if len(c.segments) > 1)


# Wordings


@named
def test_every_task_has_three_other_wordings_in_which_all_its_contexts_are_asked_and_read(task):
    assert len(tasks.wording_names(task)) >= 4
    for length in (1, 2, 3, 5):
        problem = task.sample(np.random.default_rng(length), length)
        plain = trace(task, problem)
        for name in tasks.wording_names(task)[1:]:
            other = tasks.reworded(task, name)
            tree = trace(other, problem)
            assert tree.value == plain.value
            assert other.grade(problem, "retune", tree.segments[-1].text)
            for there, here in zip(tree.walk(), plain.walk(), strict=True):
                owner, subproblem = task.reading(here.prompt)
                assert other.reading(there.prompt)[1] == subproblem
                assert there.prompt != here.prompt or owner is not task, "this wording leaves a prompt as it is"
            question = other.question(problem, "retune")
            assert other.parse(question) == problem and question == tree.prompt
    with pytest.raises(UserError, match=f"{task.name} has no wording 'polite'; there are paper, "):
        tasks.reworded(task, "polite")
