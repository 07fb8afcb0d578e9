"""The base's corpus is what it says, right in every answer, and holds no solution of any task."""

import doctest
import importlib.util
import random
import re
from collections import Counter
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from retune_jax import tasks
from retune_jax.data import corpus, facts, sentences
from retune_jax.data.corpus import CUES, FIRST, LAST, VALUE, WHOLE, Corpus
from retune_jax.protocol import CALL
from retune_jax.tokenizer import tiny

SPEC = importlib.util.spec_from_file_location("base", Path(__file__).parents[1] / "configs" / "base.py")
base = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(base)

EXAMPLES, LONGEST = 20_000, 72
TASKS = {name: tasks.get(name) for name in tasks.names()}  # of later ones too


@pytest.fixture(scope="module")
def examples():
    """Many examples at the end of the curriculum, half of them with lists that repeat items."""
    plain, repeating = (Corpus(seed=0, examples=EXAMPLES, curriculum=((0, LONGEST),), repeats=share) for share in (0.0, 0.6))
    return [(plain, repeating)[i % 2][i] for i in range(EXAMPLES)]


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


# What it teaches, worked out again from the text. An output that is none of these fails, so nothing else can be in it.

CARRY = "carry {}, digit {}"
NAMED = r"(.*) as (\w+) and (\w+)"  # a sum's question may choose the names in its answer
LINE = r"\w+: (\w+) (\d+), (\w+) (\d+)"  # two labelled values
SHORT = ("Xor", "Plus", "Max", "Min", "Total", "Same")  # facts asked for by their names alone
FACTS = {
    r"(\S+) xor (\S+)|xor of (\S+) and (\S+)": lambda a, b: str(a ^ b),
    r"(\S+) or (\S+) but not both|exclusive or of (\S+) with (\S+)": lambda a, b: str(a ^ b),
    r"(\S+) plus (\S+)|add (\S+) and (\S+)|(\S+) and (\S+) make": lambda a, b: CARRY.format(*divmod(a + b, 10)),
    r"(\S+) plus (\S+) with carry (\S+)|add (\S+) and (\S+) and carry (\S+)": lambda *n: CARRY.format(*divmod(sum(n), 10)),
    r"max of (\S+) and (\S+)|larger of (\S+) and (\S+)": lambda a, b: str(a if a > b else b),
    r"smaller of (\S+) and (\S+)": lambda a, b: str(a if a < b else b),
    r"(\S+) moved by (\S+)|(\S+) added to (\S+)": lambda a, b: str(a + b),
    r"is (\S+) equal to (\S+)|(\S+) same as (\S+)": lambda a, b: "yes" if a == b else "no",
}


def fact_of(given):
    """The rule and the numbers' words of a question for a fact; None where `given` ends in another question."""
    line, _, cue = given.rstrip(":").rpartition("\n")
    asked = line.rpartition("\n")[2] if cue in VALUE else cue
    asked, names = asked.strip(), None
    if found := re.fullmatch(NAMED, asked):
        asked, *names = found.groups()
    for pattern, answer in FACTS.items():
        if found := re.fullmatch(pattern, asked):
            if names:
                answer = partial(named_sum, names)
            return answer, [word for word in found.groups() if word is not None]
    return None


def named_sum(names, *numbers):
    return f"{names[0]} {sum(numbers) // 10}, {names[1]} {sum(numbers) % 10}"


def check_fact(sentence, given, output):
    """A question about small numbers, given in it, or by name on the lines before it, or as the ends of a list."""
    answer, words = fact_of(given)
    named = dict(line.split(": ") for line in given.strip().split("\n") if re.fullmatch(r"\w+: -?\d+", line))
    named |= {found[1]: found[2] for found in re.finditer(r"^\w+: (\w+) (-?\d+), \w+ \d+$", given, re.MULTILINE)}
    if cues := [word for word in words if word in FIRST + LAST]:
        ends = end(sentence, cues[0]).split(" ")
        assert len(cues) == len(ends) and len(set(cues)) == 1, "of two numbers, both first digits"
        words = [ends.pop(0) if word in cues else word for word in words]
    numbers = [named.get(word, word) for word in words]
    assert all(re.fullmatch(r"\d" if "carry" in output else r"-?\d\d?", number) for number in numbers), given
    assert output == " " + answer(*map(int, numbers))


def check_in_short(sentence, name, given, output):
    """A fact of what comes first in the sentence and of the numbers on the last lines."""
    firsts = end(sentence, FIRST[0]).split(" ")
    lines = given.strip().split("\n")[:-1]
    count = 2 if "[" in sentence else 3
    numbers = [*firsts, *(line.split(": ")[1] for line in lines[len(lines) - (count - len(firsts)) :])]
    rule = {"Xor": lambda a, b: str(a ^ b), "Plus": lambda *n: CARRY.format(*divmod(sum(n), 10))}
    rule |= {"Max": lambda a, b: str(max(a, b)), "Min": lambda a, b: str(min(a, b)), "Total": lambda a, b: str(a + b)}
    rule |= {"Same": lambda a, b: "yes" if a == b else "no"}
    assert len(numbers) == count and output == " " + rule[name](*map(int, numbers))


def check_prepend(given, output):
    """An item put before a list, or a digit before a number."""
    sentence = given.split("\n")[0]
    item = re.search(r"\nPut before: (-?\d+)\n", given)[1]
    if "[" in sentence:
        items = re.search(r"\[(.*)\]", sentence)[1]
        assert output == f" [{item}, {items}]" if items else f" [{item}]"
    else:
        assert output == f" {item}{re.search('[0-9]+', sentence)[0]}"


def check_line(given, output):
    """A line of two labelled values: whole, or with another first value and a digit before the second."""
    first, value, second, number = re.search(rf"(?:^ |\n){LINE}\n", given).groups()
    if change := re.search(r"\nSet (\w+): ([01])\n", given):
        assert change[1] == first
        value = change[2]
    if before := re.search(r"\nPut before: (\d)\n", given):
        number = before[1] + number
    else:
        assert given.rpartition("\n")[2].rstrip(":") in WHOLE
    assert output == f" {first} {value}, {second} {number}"


def check_form(given, output):
    """A form, with a labelled list in the place of each label."""
    *lines, form, _ = given[1:].split("\n")
    named = dict(line.split(": ") for line in lines)
    filled = [named.pop(word, word) for word in form.removeprefix("Form: ").rstrip("?.:").split(" ")]
    assert not named and output == f" {' '.join(filled)}{form[len(form.rstrip('?.:')) :]}\n"


def check_expression(lists, given, output):
    """What a calculator says to an expression with items of the labelled lists; or that before a list."""
    asked = given.rstrip(":").rpartition("\n")[0].rpartition("\n")[2].strip()
    before = re.match(r"Put before (\w+): ", asked)
    values = re.sub(r"(\w+)\[([012])\]", lambda m: str(lists[m[1]][int(m[2])]), asked[before.end() if before else 0 :])
    number = r"(-?\d+)"
    rules = {
        number: lambda a: a,
        rf"{number} \+ {number}": lambda a, b: a + b,
        rf"max\({number}, {number}\)": max,
        rf"max\({number}, {number} \+ {number}\)": lambda a, b, c: max(a, b + c),
        rf"{number} == {number}": lambda a, b: a == b,
        rf"{number} == {number} \+ {number}": lambda a, b, c: a == b + c,
        rf"{number} < {number} \+ {number}": lambda a, b, c: a < b + c,
    }
    [value] = [rule(*map(int, found.groups())) for form, rule in rules.items() if (found := re.fullmatch(form, values))]
    assert output == (f" {[value, *lists[before[1]]]}" if before else f" {value}")


def labelled_lists(given):
    """The lists that open an example, by label, {label: its numbers}; of a sentence, as `a` and `b`."""
    found = re.findall(r"(?:^ |\n)(\w+): \[([-\d, ]*)\](?=\n)", given)
    found = found or list(zip("ab", re.findall(r"\[(-?\d[-\d, ]*)\]", given.partition("\n")[0])))
    return {name: [int(item) for item in items.split(", ") if item] for name, items in found}


def check_lookup(named, asked, output):
    """One of the labelled values that open an example."""
    name = next((name for name in named if asked in [name, *(form.format(name) for form in corpus.LOOKUPS)]), None)
    assert name and output == f" {named[name]}"


def end(sentence, cue):
    """The first or last item of the sentence's first list, or the first digits of its numbers."""
    if "[" in sentence:
        items = re.search(r"\[(.*?)\]", sentence)[1].split(", ")
        return items[0] if cue in FIRST else items[-1]
    assert cue in FIRST
    return " ".join(number[0] for number in re.findall("[0-9]+", sentence))


def check_rewriting(sentence, cue, output):
    """The sentence again, whole or with its lists or numbers without what comes first in them."""
    wanted = sentence
    if cue not in WHOLE:
        wanted = re.sub(r"\[[^,\]]+(, )?" if "[" in sentence else r"\b[0-9]", lambda m: "[" * ("[" in m[0]), sentence)
        assert wanted != sentence
    assert output.startswith(" ") and output.endswith("\n")
    before, _, rest = output[1:-1].partition(": ")
    assert output[1:-1] == wanted or (rest == wanted and before in CUES)


def check(example):
    """Raises AssertionError where an output is not what its input asks for; returns the skills that were asked for."""
    sentence = example["inputs"][0].split("\n")[0][1:]
    lists = labelled_lists(example["inputs"][0])
    named = dict(re.findall(r"(?:^ |\n)(\w+): (\[[-\d, ]*\]|\d+)(?=\n)", example["inputs"][0]))
    skills = []
    for given, output in zip(example["inputs"], example["outputs"]):
        cue = given.rpartition("\n")[2].partition(":")[0]
        asked = given.rpartition("\n")[0].rpartition("\n")[2].strip()
        if "\nForm: " in given:
            check_form(given, output)
            skills.append("form")
        elif lists and re.search(r"\w\[\d\]", given):
            check_expression(lists, given, output)
            skills.append("expression")
        elif re.search(rf"(?:^ |\n){LINE}\n(?:Set|Put before|{'|'.join(WHOLE)})\b", given):
            check_line(given, output)
            skills.append("line")
        elif fact_of(given):
            check_fact(sentence, given, output)
            skills.append("fact of an end" if set(FIRST + LAST) & set(re.findall(r"\w+", given)) else "fact")
        elif cue in SHORT:
            check_in_short(sentence, cue, given, output)
            skills.append("fact of an end")
        elif "Put before:" in given:
            check_prepend(given, output)
            skills.append("prepend")
        elif cue in FIRST + LAST:
            assert output == f" {end(sentence, cue)}"
            skills.append("end")
        elif len(named) > 1 and re.fullmatch(r"\w+: (\[.*\]|\d+)", sentence):
            check_lookup(named, cue if not asked or ": " in asked else asked, output)
            skills.append("lookup")
        else:
            assert len(skills) == 0 and cue in (*CUES, *WHOLE)
            check_rewriting(sentence, cue, output)
            skills.append("whole" if cue in WHOLE else "rewriting")
    return skills


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
