"""What the tiny base model is pretrained on: general skills with lists, numbers and one-digit facts.

The paper tunes a pretrained LLaMA, which can copy and knows its digits before it ever sees a task. The tiny model gets the
same start from this corpus: sentences of random words with lists or numbers in them (data/sentences.py), to be rewritten
without the first items or whole; questions for the first or last item; facts about small numbers (data/facts.py), which stand
in the question, on lines of their own, or first in a list; labelled values to be looked up, or written again with one changed;
forms to be filled with labelled values; sums, maxima and comparisons of the first items of lists, as a calculator knows them.
Nothing in it solves a task: no recursion, no sum of long numbers, no property of a whole list (tests/test_corpus.py scans for
that).

    >>> corpus = Corpus(seed=0, examples=100_000, curriculum=((0, 4), (100_000, 72)))
    >>> corpus[51]["inputs"], corpus[51]["outputs"]
    ([' Number [-1, 3, 0].\\nMove: Do:', 'Tail:'], [' Number [3, 0].\\n', ' 0'])

The corpus is random-access: example i depends on the seed and i alone, so that a stopped run goes on exactly where it was.
Its index is also a *curriculum*: lists grow with i. Copying appears within minutes on lists of four items and is then
stretched; started on long lists, the tiny model learns nothing for a long time.
"""

import dataclasses
import random
from collections.abc import Callable
from functools import partial

from retune_jax.data.facts import FACTS, SUM_WITH_CARRY, Fact, facts_for
from retune_jax.data.sentences import frame, items, labels, number, repeating, shown, signed_items, word

# Cues ask for something; any cue that is in none of the special groups asks for the rest of the sentence's list.
FIRST, LAST, WHOLE = ("First", "Head", "Begin"), ("Last", "Tail", "End"), ("Repeat", "Copy", "Again")
CUES = (
    "Solution Answer Call Next Then Output Result Go Rest Step Work Say Write Line Text Task Note Reply Move Do Now So Return"
).split()
VALUE = ("Value", "Answer", "Result")  # behind a question for a fact
LOOKUPS = ("Say {}", "Show {}", "What is {}?", "{} again", "{}")
LONGEST_PAIR, TOKENS_OF_PAIR = 40, 18  # items of lists that stand in twos, and tokens that one in each takes at most
LONGEST_SUMMED = 14  # items of lists whose sums are close


@dataclasses.dataclass(frozen=True)
class _Draft:
    """An example under construction: the texts that alternate, input first; how many of its lists repeat items; its length, and
    the longest that lists may have which stand in twos."""

    inputs: list[str]
    outputs: list[str]
    repeats: float
    length: int
    pair: int

    def ask(self, given: str, wanted: str):
        self.inputs.append(given)
        self.outputs.append(wanted)


def _rewrite(rng: random.Random, length: int, draft: _Draft):
    """A sentence with one or two lists, to be written again without their first items, or whole; then, perhaps, questions."""
    pair = rng.random() < 0.3
    length = _of_pair(rng, draft) if pair else length
    lists = [items(rng, length, draft.repeats)]
    if pair:
        lists.append(items(rng, length if rng.random() < 0.8 else max(1, length - 1), draft.repeats))
    _ask_to_rewrite(rng, frame(rng, len(lists)), lists, draft)
    before = ""
    for _ in range(rng.choice((0, 1, 1, 2))):
        _ask_of_ends(rng, lists[0], before, draft)
        before = "\n"


def _ask_to_rewrite(rng: random.Random, sentence: str, lists: list[list[str]], draft: _Draft):
    """Asks for the sentence with these lists again, without their first items, or whole."""
    text = sentence.format(*map(shown, lists))
    whole = len(lists[0]) < 2 or rng.random() < 0.15
    cue = rng.choice(WHOLE) if whole else rng.choice(CUES)
    wanted = text if whole else sentence.format(*(shown(some[1:]) for some in lists))
    style = rng.random()
    if style < 0.35:
        draft.ask(f" {text}\n{cue}:", f" {wanted}\n")
    elif style < 0.9:
        draft.ask(f" {text}\n{cue}: {rng.choice(CUES)}:", f" {wanted}\n")
    else:
        draft.ask(f" {text}\n{cue}:", f" {rng.choice(CUES)}: {wanted}\n")


def _noise(rng: random.Random) -> str:
    """Now and then a labelled line that has nothing to do with the question after it."""
    return "" if rng.random() < 0.4 else f"{rng.choice(CUES)}: {rng.randint(0, 9)}\n"


def _ends(rng: random.Random, length: int, draft: _Draft):
    """Questions about what comes first or last in a sentence's list, or first in its numbers."""
    if rng.random() < 0.6:
        some = items(rng, length, draft.repeats)
        before = f" {frame(rng, 1).format(shown(some))}\n"
        firsts, facts, ask = [int(some[0])], facts_for(some), partial(_ask_of_ends, rng, some)
    else:
        numbers, sentence = _number_sentence(rng, length, draft.repeats)
        before = f" {sentence(0)}\n"
        firsts, facts = [int(number[0]) for number in numbers], (SUM_WITH_CARRY,)
        ask = partial(_ask_of_firsts, rng, firsts)
    for _ in range(rng.choice((1, 2, 3))):
        if rng.random() < 0.5:
            fact = rng.choice(facts)
            others = fact.draw(rng)[len(firsts) :]
            lines = "".join(f"{rng.choice(CUES)}: {number}\n" for number in others)
            draft.ask(f"{before}{_noise(rng)}{lines}{fact.name}:", f" {fact.value(*firsts, *others)}")
        else:
            ask(before, draft)
        before = "\n"


def _prepend(rng: random.Random, length: int, draft: _Draft):
    """An item to be put before a list, or a digit before a number."""
    if rng.random() < 0.5:
        item, *rest = items(rng, length, draft.repeats)
        before, wanted = shown(rest), shown([item, *rest])
    else:
        item, before = str(rng.randint(0, 9)), number(rng, length, draft.repeats)
        wanted = item + before
    sentence = frame(rng, 1).format(before)
    draft.ask(f" {sentence}\n{_noise(rng)}Put before: {item}\n{rng.choice(CUES)}:", f" {wanted}")


def _fields(rng: random.Random, length: int, draft: _Draft):
    """A line of two labelled values, to be written again: whole, or with another first value and a digit before the number."""
    first, second = labels(rng)
    digit, behind = rng.randint(0, rng.choice((1, 9))), number(rng, length, draft.repeats)
    before = f" {frame(rng, 1).format(number(rng, length, draft.repeats))}\n" if rng.random() < 0.4 else " "
    line = f"{before}{rng.choice(CUES)}: {first} {digit}, {second} {behind}\n"
    if rng.random() < 0.2:
        draft.ask(f"{line}{rng.choice(WHOLE)}:", f" {first} {digit}, {second} {behind}")
        return
    item, change = rng.randint(0, 9), ""
    if rng.random() < 0.5:
        digit = rng.randint(0, 1)
        change = f"Set {first}: {digit}\n"
    draft.ask(f"{line}{change}Put before: {item}\n{rng.choice(CUES)}:", f" {first} {digit}, {second} {item}{behind}")


def _lookup(rng: random.Random, length: int, draft: _Draft):
    """Labelled values, some of which are asked for."""
    names = rng.sample(CUES, rng.randint(2, 6))
    values = {name: _value(rng, rng.randint(1, min(length, 12)), draft.repeats) for name in names}
    before = f" {_lines(values)}"
    for _ in range(rng.randint(2, 6)):
        name, cue = rng.choice(names), rng.choice(CUES)
        asked = f"{rng.choice(LOOKUPS).format(name)}\n{cue}" if rng.random() < 0.75 else name
        draft.ask(f"{before}{asked}:", f" {values[name]}")
        before = "\n"


def _lines(values: dict[str, str]) -> str:
    """A line for each labelled value."""
    return "".join(f"{name}: {value}\n" for name, value in values.items())


def _value(rng: random.Random, length: int, repeats: float) -> str:
    """A list, or a number."""
    draw = rng.choice((items, signed_items, None))
    return shown(draw(rng, length, repeats)) if draw else number(rng, length, repeats)


def _fill(rng: random.Random, length: int, draft: _Draft):
    """A form in which the labels of lists or numbers stand, to be written with these in their places."""
    places = rng.choice((1, 2, 2, 2, 2, 3, 4))
    length = _of_pair(rng, draft) if places < 3 else rng.randint(1, min(length, 12))
    form = frame(rng, places)
    *names, cue = rng.sample([cue for cue in CUES if cue not in form], places + 1)
    values = {name: _value(rng, length, draft.repeats) for name in names}
    order = rng.sample(names, places) if rng.random() < 0.7 else names
    filled = form.format(*(values[name] for name in order))
    draft.ask(f" {_lines(values)}Form: {form.format(*order)}\n{cue}:", f" {filled}\n")


def _expressions(rng: random.Random, length: int, draft: _Draft):
    """Two lists, and what a calculator says to expressions with their first items; perhaps put before a list.

    The lists have labels, or stand in a sentence, where `a` is the first one and `b` the second.
    """
    count, sentence = max(2, _of_pair(rng, draft) - 1), rng.random() < 0.5
    one, two, *cues = rng.sample(CUES, 5)
    if sentence or rng.random() < 0.4:
        one, two = "a", "b"
    lists = {name: signed_items(rng, count, draft.repeats) for name in (one, two)}
    names, places = [rng.choice((one, two)) for _ in range(3)], [rng.choice((0, 0, 1, min(2, count - 1))) for _ in range(3)]
    a, b, c = (int(lists[name][place]) for name, place in zip(names, places))
    if rng.random() < 0.4 and (names[0], places[0]) not in zip(names[1:], places[1:]):  # or else few comparisons would hold
        a = rng.choice((b + c, b + c, b, b + c + rng.choice((-1, 1))))
        lists[names[0]][places[0]] = str(a)
    x, y, z = (f"{name}[{place}]" for name, place in zip(names, places))
    if sentence:
        before = f" {frame(rng, 2).format(*map(shown, lists.values()))}\n"
    else:
        before = f" {_lines({name: shown(some) for name, some in lists.items()})}"
    said = [
        (x, a),
        (y, b),
        (f"{x} + {y}", a + b),
        (f"max({x}, {y})", max(a, b)),
        (f"max({x}, {y} + {z})", max(a, b + c)),
        (f"max({x}, {y} + {z})", max(a, b + c)),
        (f"{x} == {y}", a == b),
        (f"{x} == {y} + {z}", a == b + c),
        (f"{x} == {y} + {z}", a == b + c),
        (f"{x} < {y} + {z}", a < b + c),
    ]
    for cue in cues[: rng.choice((1, 2, 3))]:
        text, value = rng.choice(said)
        put = not isinstance(value, bool) and rng.random() < 0.4
        _ask_to_calculate(before, text, cue, value, (one, lists[one]) if put else None, draft)
        before = "\n"


def _ask_to_calculate(before: str, text: str, cue: str, value: int, put: tuple[str, list[str]] | None, draft: _Draft):
    """Asks for an expression's value, or for the list that is to be `put` behind it, given by its name and its items."""
    if put:
        name, some = put
        draft.ask(f"{before}Put before {name}: {text}\n{cue}:", f" {shown([str(value), *some])}")
    else:
        draft.ask(f"{before}{text}\n{cue}:", f" {value}")


def _close_sums(rng: random.Random, length: int, draft: _Draft):
    """Two lists in a sentence, perhaps to be written again without their first items, then whether one item is another one, or
    the sum of two others: it always nearly is, so that only calculating tells."""
    count = rng.randint(1, 4) if rng.random() < 0.5 else rng.randint(1, min(length, LONGEST_SUMMED))
    low, high = rng.choice(((0, 2), (-5, 5), (-9, 9), (0, 20)))
    lists = {name: repeating(rng, [str(rng.randint(low, high)) for _ in range(count)], draft.repeats) for name in ("a", "b")}
    terms = []
    for places in ((0, 0, 0, 1), (0, 0, 1), (0, 1, 2, 2))[: 2 if count == 1 or rng.random() < 0.3 else 3]:
        free = [(name, min(place, count - 1)) for name in lists for place in places]
        terms.append(rng.choice([term for term in free if term not in terms]))
    total = sum(int(lists[name][place]) for name, place in terms[1:])
    off = rng.choice((0, 0, 0, 0, -1, 1, 1, 1, 2, 2, rng.randint(-9, 9)))
    name, place = terms[0]
    lists[name][place] = str(total + off)
    sentence, before = frame(rng, 2), ""
    if rng.random() < 0.5:
        _ask_to_rewrite(rng, sentence, [*lists.values()], draft)
    else:
        before = f" {sentence.format(*map(shown, lists.values()))}\n"
    item, *others = (f"{name}[{place}]" for name, place in terms)
    added = " + ".join(others)
    asked: list[tuple[str, int]] = [(f"{item} == {added}", off == 0)]
    if rng.random() < 0.6:
        asked.append(rng.choice(((f"max({item}, {added})", total + max(off, 0)), (added, total))))
    for cue, (text, value) in zip(rng.sample(CUES, 2), asked):
        put = not isinstance(value, bool) and rng.random() < 0.6
        _ask_to_calculate(before, text, cue, value, rng.choice([*lists.items()]) if put else None, draft)
        before = "\n"


def _number_sentence(rng: random.Random, length: int, repeats: float) -> tuple[list[str], Callable[[int], str]]:
    """One or two numbers, and the sentence about them when so many of their first digits are left out."""
    numbers = [number(rng, length, repeats)]
    if rng.random() < 0.6:
        numbers.append(number(rng, length if rng.random() < 0.7 else rng.randint(1, length), repeats))
    if rng.random() < 0.4:
        sentence = frame(rng, len(numbers))
    else:
        words = [[word(rng) for _ in range(rng.choice((0, 0, 1, 2, 3)))] for _ in numbers]
        joint = rng.choice(("and", "+", "with", ",", "then"))
        if joint == "+" and not words[-1]:
            joint = "then"  # numbers on both sides of a + would be addition's own question
        sentence = f" {joint} ".join(" ".join([*some, "{}"]) for some in words)
    return numbers, lambda cut: sentence.format(*(number[cut:] for number in numbers))


def _numbers(rng: random.Random, length: int, draft: _Draft):
    """A sentence with one or two numbers, to be written again without their first digits, or whole; perhaps a question."""
    numbers, sentence = _number_sentence(rng, length, draft.repeats)
    whole = min(map(len, numbers)) < 2 or rng.random() < 0.2
    cue, wanted = (rng.choice(WHOLE), sentence(0)) if whole else (rng.choice(CUES), sentence(1))
    if rng.random() < 0.2:
        draft.ask(f" {sentence(0)}\n{cue}:", f" {rng.choice(CUES)}: {wanted}\n")
    else:
        draft.ask(f" {sentence(0)}\n{cue}: {rng.choice(CUES)}:", f" {wanted}\n")
    if rng.random() < 0.7:
        _ask_of_firsts(rng, [int(number[0]) for number in numbers], "", draft)


def _facts(rng: random.Random, length: int, draft: _Draft):
    """Several facts; often their numbers stand on lines of their own, apart from the question."""
    before = " "
    for _ in range(rng.randint(4, 8)):
        fact = rng.choice(FACTS)
        numbers = fact.draw(rng)
        if rng.random() < 0.5:
            asked, value = _in_words(rng, fact, numbers)
            draft.ask(f"{before}{rng.choice(fact.forms).format(*numbers)}{asked}\n{rng.choice(VALUE)}:", value)
        else:
            _ask_by_name(rng, fact, numbers, {}, before, draft)
        before = "\n"


def _in_words(rng: random.Random, fact: Fact, numbers: list[int]) -> tuple[str, str]:
    """The end of a question, which may choose the names in the answer, and the answer."""
    if not fact.named or rng.random() < 0.5:
        return "", f" {fact.value(*numbers)}"
    names = labels(rng)
    return " as {} and {}".format(*names), f" {fact.value(*numbers, names=names)}"


def _ask_by_name(rng: random.Random, fact: Fact, numbers: list[int], names: dict[int, str], before: str, draft: _Draft):
    """Asks for a fact by the names of its numbers: the given ones, and for the others labels of lines put before."""
    noise, *others = rng.sample(CUES, 1 + len(numbers))
    named = [names.get(place, label) for place, label in enumerate(others)]
    values = [f"{label}: {numbers[place]}\n" for place, label in enumerate(others) if place not in names]
    if values and rng.random() < 0.4:  # two values on a line, one of them of no use
        value, other = values[-1][:-1].replace(": ", " "), number(rng, rng.randint(1, min(draft.length, 12)), draft.repeats)
        values[-1] = f"{noise}: {value}, {labels(rng)[1]} {other}\n"
    elif rng.random() < 0.4:
        values.insert(rng.randint(0, len(values)), f"{noise}: {rng.randint(0, 9)}\n")
    asked, value = _in_words(rng, fact, numbers)
    question = rng.choice(fact.forms).format(*named) + asked
    if asked or rng.random() < 0.7:
        question += f"\n{rng.choice(VALUE)}"
    draft.ask(f"{before}{''.join(values)}{question}:", value)


def _ask_of_ends(rng: random.Random, some: list[str], before: str, draft: _Draft):
    """Asks for the first or last item of a list, or for a fact of it and another number."""
    cues, item = rng.choice(((FIRST, 0), (FIRST, 0), (LAST, -1)))
    cue = rng.choice(cues)
    if rng.random() < 0.5:
        draft.ask(f"{before}{_noise(rng)}{cue}:", f" {some[item]}")
    else:
        fact, place = rng.choice(facts_for(some)), rng.randint(0, 1)
        numbers = fact.draw(rng)
        numbers[place] = int(some[item])
        _ask_by_name(rng, fact, numbers, {place: cue}, before, draft)


def _ask_of_firsts(rng: random.Random, firsts: list[int], before: str, draft: _Draft):
    """Asks for the first digits of a sentence's numbers, or for their sum."""
    cue = rng.choice(FIRST)
    if rng.random() < 0.4:
        draft.ask(f"{before}{_noise(rng)}{cue}:", f" {' '.join(map(str, firsts))}")
    else:
        digits = [*firsts, *SUM_WITH_CARRY.draw(rng)[len(firsts) :]]
        _ask_by_name(rng, SUM_WITH_CARRY, digits, dict.fromkeys(range(len(firsts)), cue), before, draft)


SKILLS = (
    (_rewrite, 19),
    (_ends, 7),
    (_facts, 9),
    (_numbers, 14),
    (_prepend, 6),
    (_fields, 8),
    (_lookup, 8),
    (_fill, 12),
    (_expressions, 17),
)


class Corpus:
    """A random-access source of examples `{"inputs", "outputs", "length"}`, as a prepared data set's.

    Args:
        seed: another seed is another corpus.
        examples: how many there are.
        curriculum: points (index, items), in the order of their index: the longest list at that example. Between points it
            grows linearly.
        repeats: share of the lists and numbers in which stretches of items stand more than once. There only the place tells
            what to copy next.
        room: tokens that an example may take, which bounds the lists that stand in twos; the curriculum bounds the others.
        sums: share of the examples that are about sums of two lists' items, and comparisons of nearly equal ones, only.
    """

    def __init__(
        self,
        seed: int,
        examples: int,
        curriculum: tuple[tuple[int, int], ...],
        repeats: float = 0.0,
        room: int = 768,
        sums: float = 0.0,
    ):
        self.seed, self.examples, self.curriculum, self.repeats, self.sums = seed, examples, curriculum, repeats, sums
        self.pair = max(1, min(LONGEST_PAIR, room // TOKENS_OF_PAIR))

    def __len__(self) -> int:
        return self.examples

    def longest(self, index: int) -> int:
        """The longest list at this example."""
        (start, most), *points = self.curriculum
        for end, goal in points:
            if index < end:
                return round(most + (goal - most) * max(0, index - start) / (end - start))
            start, most = end, goal
        return most

    def __getitem__(self, index: int) -> dict:
        """Example `index`: alternating texts, each output to be predicted after its input."""
        if not 0 <= index < self.examples:
            raise IndexError(index)
        rng = random.Random(f"{self.seed}/{index}")
        length = _length(rng, self.longest(index))
        draft = _Draft([], [], self.repeats, length, self.pair)
        if self.sums and rng.random() < self.sums:
            _close_sums(rng, length, draft)
        else:
            rng.choices([skill for skill, _ in SKILLS], [share for _, share in SKILLS])[0](rng, length, draft)
        return {"inputs": draft.inputs, "outputs": draft.outputs, "length": length}


def _of_pair(rng: random.Random, draft: _Draft) -> int:
    """Of two lists that stand together: anything up to the example's length, for most is decided by the first few items."""
    return rng.randint(1, min(draft.length, draft.pair))


def _length(rng: random.Random, longest: int) -> int:
    """Of a list: often near the longest there is by now, where there is most to learn, and long more often than short."""
    kind = rng.random()
    if kind < 0.35:
        return rng.randint(max(1, longest - 6), longest)
    return max(rng.randint(1, longest) for _ in range(2 if kind < 0.65 else 1))
