"""The base's corpus is what it says, right in every answer, and holds no solution of any task."""

import doctest
import importlib.util
import random
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from corpus_answers import check

from retune_jax import tasks
from retune_jax.data import corpus
from retune_jax.data.corpus import Corpus, facts, sentences
from retune_jax.protocol import CALL
from retune_jax.tokenizer import tiny

SPEC = importlib.util.spec_from_file_location("base", Path(__file__).parents[1] / "configs" / "base.py")
base = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(base)

EXAMPLES, LONGEST = 20_000, 72
TASKS = {name: tasks.get(name) for name in tasks.names()}  # of later ones too


@pytest.fixture(scope="module")
def examples():
    """Many examples at the end of the curriculum, half of them with lists that repeat items, some about sums only."""
    shares = ({}, {"repeats": 0.6}, {}, {"repeats": 0.6, "sums": 0.3})
    sources = [Corpus(seed=0, examples=EXAMPLES, curriculum=((0, LONGEST),), **share) for share in shares]
    return [sources[i % len(sources)][i] for i in range(EXAMPLES)]


def test_items_repeat_as_often_as_they_should():
    """A share of the lists of digits consists of long runs; chance alone makes next to none."""

    def runs(share):
        source = Corpus(seed=0, examples=2000, curriculum=((0, 40),), repeats=share)
        text = "".join(source[i]["inputs"][0] for i in range(2000))
        return len(re.findall(r"([2-9])(?:, \1){4}", text))

    assert runs(0.0) < 5 < 60 < runs(0.2) < runs(0.8)


def test_what_repeats_does_so_in_four_ways():
    """Long runs, a period, stretches that come again, one item nearly everywhere; none of them is rare."""
    rng, kinds, lists = random.Random(0), Counter(), 500
    for _ in range(lists):
        some = sentences.repeating(rng, [str(rng.randint(0, 9)) for _ in range(40)], 1.0)
        alike = {gap: sum(a == b for a, b in zip(some, some[gap:])) / (40 - gap) for gap in range(1, 10)}
        if Counter(some).most_common(1)[0][1] > 25:
            kinds["one item"] += 1
        elif alike[1] > 0.5:
            kinds["runs"] += 1
        elif max(alike.values()) > 0.7:
            kinds["period"] += 1
        else:
            text = "".join(some)
            kinds["stretch"] += any(text.count(text[i : i + 5]) > 1 or text[i : i + 5] in text[i + 1 :] for i in range(36))
    assert set(kinds) == {"one item", "runs", "period", "stretch"}
    assert min(kinds.values()) > lists / 10, kinds


def test_long_lists_come_more_often_than_short_ones():
    source = Corpus(seed=0, examples=4000, curriculum=((0, 60),))
    lengths = [source[i]["length"] for i in range(4000)]
    short, long = (sum(low < length <= low + 20 for length in lengths) for low in (0, 40))
    assert long > 2.5 * short > 1000


@pytest.mark.parametrize("stage", base.STAGES)
def test_no_text_is_longer_than_its_stage_allows(stage):
    """A text that did not fit would end the training of the base, perhaps after hours."""
    config = base.get_config(f"stage={stage}")
    longest = config.data.curriculum[-1][1]
    source = Corpus(seed=int(stage), examples=3000, curriculum=((0, longest),), repeats=config.data.repeats)
    tokenizer = tiny()
    tokens = max(1 + sum(len(tokenizer.encode(text)) for text in one["inputs"] + one["outputs"]) for one in source)
    assert tokens <= 0.95 * config.data.context_length, "of a run's many more texts some are longer"


def test_sums_come_as_often_as_they_should_and_are_close():
    """In as many more examples as are asked for a sum is compared, and nearly half of these comparisons hold."""
    none, some, many = (Corpus(seed=0, examples=1000, curriculum=((0, 30),), sums=share) for share in (0.0, 0.25, 1.0))
    compared = [sum("] == " in "".join(example["inputs"]) for example in source) for source in (none, some, many)]
    assert compared[0] < 120 and 270 < compared[1] < 370 and compared[2] == 1000, "a quarter, and some of the others"
    said = Counter(output for example in many for output in example["outputs"])
    assert said[" True"] + said[" False"] == 1000 and 350 < said[" True"] < 550


# The source


def test_an_example_depends_on_the_seed_and_its_index_alone():
    one = Corpus(seed=3, examples=1000, curriculum=((0, 4), (1000, 40)))
    again = Corpus(seed=3, examples=1000, curriculum=((0, 4), (1000, 40)))
    in_order = [one[i] for i in range(1000)]
    assert [again[i] for i in reversed(range(1000))] == in_order[::-1]
    assert one[17] == in_order[17]
    other = Corpus(seed=4, examples=1000, curriculum=one.curriculum)
    assert sum(other[i] == in_order[i] for i in range(1000)) < 50
    assert len({str(example) for example in in_order}) > 990


def test_it_ends_where_it_says():
    source = Corpus(seed=0, examples=5, curriculum=((0, 4),))
    assert len(source) == 5
    assert len(list(source)) == 5
    for index in (-1, 5):
        with pytest.raises(IndexError):
            source[index]


def test_the_curriculum_grows_as_it_is_written():
    source = Corpus(seed=0, examples=100, curriculum=((10, 4), (30, 8), (70, 48)))
    assert [source.longest(i) for i in (0, 10, 20, 30, 50, 70, 99)] == [4, 4, 6, 8, 28, 48, 48]
    assert all(source.longest(i) <= source.longest(i + 1) for i in range(99))


def items(example):
    """The items of the longest list and the digits of the longest number of an example; 0 where it has none."""
    text = "".join(example["inputs"] + example["outputs"])
    lists = [shown.count(",") + bool(shown.strip("[]")) for shown in re.findall(r"\[.*?\]", text)]
    return max(lists, default=0), max(map(len, re.findall(r"\d+", text)), default=0)


def test_no_example_is_longer_than_the_curriculum_allows_and_many_are_as_long():
    count = 6000
    source = Corpus(seed=0, examples=count, curriculum=((0, 4), (count, 72)))
    lists, numbers = zip(*(items(source[i]) for i in range(count)))
    for i in range(count):
        longest = source.longest(i)
        assert source[i]["length"] <= longest and lists[i] <= longest
        assert numbers[i] <= longest + 1, "one more than the longest, where a digit is put before a number"
    for start in range(0, count, 1000):
        assert max(lists[start : start + 1000]) >= source.longest(start)


def test_every_output_has_an_input_before_it_and_is_cut_at_spaces_and_lines(examples):
    for example in examples:
        assert len(example["inputs"]) == len(example["outputs"]) >= 1
        assert example["inputs"][0].startswith(" ")
        assert all(given.endswith(":") for given in example["inputs"])
        assert all(output.startswith(" ") and output.strip() for output in example["outputs"])
        assert all(output.count("\n") == output.endswith("\n") for output in example["outputs"])


@pytest.mark.parametrize("module", [corpus, facts, sentences])
def test_the_worked_example_is_true(module):
    assert doctest.testmod(module).failed == 0
    assert doctest.testmod(module).attempted > 0


# What it teaches. An output that is none of the skills fails, so nothing else can be in it.


def test_every_output_is_what_its_input_asks_for(examples):
    skills = Counter()
    for example in examples:
        try:
            skills.update(check(example))
        except AssertionError as error:
            raise AssertionError(f"{example}: {error}") from error
    every = "fact, fact of an end, prepend, end, rewriting, whole, line, form, lookup, expression"
    assert set(skills) == set(every.split(", "))
    assert min(skills.values()) > 500


@pytest.mark.parametrize(
    "inputs, outputs",
    [
        ([" What is the parity of [1, 1, 1]?\nSolution:"], [" 1"]),  # a property of a whole list
        ([" 48 + 17\nNext:"], [" 65"]),
        ([" 48 plus 17\nValue:"], [" carry 6, digit 5"]),
        ([" [3, 2]\nNext: Go:"], [" [3, 2]\n"]),
        ([" Go: tree 1, row 23\nPut before: 4\nNext:"], [" tree 1, row 234"]),
        ([" Go: [3, 2]\nForm: tree Go row\nNext:"], [" tree [3] row\n"]),
        ([" Go: [3, 2]\nDo: 4\nSay Go\nNext:"], [" 4"]),
        ([" Go: [3, 2]\nmax(Go[0], Go[1])\nNext:"], [" 2"]),
        ([" Go: [3, 2]\nGo[0] == Go[1] + Go[1]\nNext:"], [" True"]),
    ],
)
def test_this_check_notices_what_is_no_skill(inputs, outputs):
    with pytest.raises(AssertionError):
        check({"inputs": inputs, "outputs": outputs})


# What it must not teach


def fragments(example):
    """Every stretch of an example that could be a question of a task: lines, what is behind a label, openings."""
    whole = "".join(before + output for before, output in zip(example["inputs"], example["outputs"]))
    for line in "\n".join([whole, *example["inputs"], *example["outputs"]]).split("\n"):
        yield line
        while ": " in line:
            line = line.partition(": ")[2]
            yield line
    yield from (before.rpartition("\n")[0] for before in example["inputs"])  # some questions have several lines


def asked(example):
    """The tasks' questions, of any method and any context of a recursion, that are asked in an example."""
    for fragment in map(str.strip, fragments(example)):
        for name, task in TASKS.items() if any(map(str.isdigit, fragment)) else ():
            try:
                problem = task.parse(fragment)
            except tasks.ProblemError:
                continue
            if any(task.question(problem, method) == fragment for method in tasks.METHODS):
                yield name, fragment


def test_no_example_asks_what_a_task_asks(examples):
    found = [(*question, example) for example in examples if (question := next(asked(example), None))]
    if found:
        pytest.fail(f"{len(found)} of {len(examples)} examples do, the first: {found[0]}")


@pytest.mark.parametrize("method", tasks.METHODS)
@pytest.mark.parametrize("name", TASKS)
def test_the_scan_finds_every_context_of_every_task(name, method):
    task = TASKS[name]
    problem = task.sample(np.random.default_rng(0), 4)
    for context in task.written(problem, method).walk():
        example = {"inputs": context.inputs(task.opening(method)), "outputs": context.outputs()}
        assert (task.reading(context.prompt)[0].name, context.prompt) in list(asked(example))


def test_no_call_is_a_step_of_a_task(examples):
    """A `Call:` may be followed by a sentence, but not by a subproblem."""
    for example in examples:
        for output in example["outputs"]:
            _, call, prompt = output.rpartition(CALL)
            if call:
                assert not list(asked({"inputs": [], "outputs": [prompt]})), example


def test_no_question_names_a_task_and_no_answer_is_its_notation(examples):
    """The words of a task occur in sentences, but what is asked for is never named by them."""
    names = {word for name in TASKS for word in name.split("_")} | {"sum", "maximum", "dp", "array"}
    for example in examples:
        for given in example["inputs"]:
            cue = given.rpartition("\n")[2].lower()
            assert not names & set(re.findall("[a-z]+", cue)), example
        for output in example["outputs"]:
            assert not re.search(r"dp\[|Carry \d, Output \d|output=|one element at a time", output), example


def test_no_sum_has_more_than_one_digit(examples):
    for example in examples:
        for output in example["outputs"]:
            if found := re.fullmatch(r" carry (\d+), digit (\d+)", output):
                assert int(found[1]) < 2 and int(found[2]) < 10, example
