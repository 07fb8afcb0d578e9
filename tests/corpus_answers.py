"""What the corpus teaches, worked out again from the text alone: a text that asks for nothing known here fails."""

import re
from functools import partial

from retune_jax.data.corpus.draft import CUES, FIRST, LAST, LOOKUPS, VALUE, WHOLE

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
    name = next((name for name in named if asked in [name, *(form.format(name) for form in LOOKUPS)]), None)
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
