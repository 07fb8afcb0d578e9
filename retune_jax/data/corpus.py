"""What the tiny base model is pretrained on: general skills with lists, numbers and one-digit facts.

The paper tunes a pretrained LLaMA, which can copy and knows its digits before it ever sees a task. The tiny model gets the
same start from this corpus: sentences of random words with a list or numbers in them, to be rewritten without the first item
or whole; questions for the first or last item; sums, maxima and xors of two small numbers, which stand in the question, on
lines of their own, or first in a list. Nothing in it solves a task: no recursion, no sum of long numbers, no property of a
whole list (tests/test_corpus.py scans for that).

    >>> corpus = Corpus(seed=0, examples=100_000, curriculum=((0, 4), (100_000, 72)))
    >>> corpus[269]["inputs"], corpus[269]["outputs"]
    ([' integers [1, 0, 1, 1] world,.\\nDo:', 'Rest: 9\\nLast:'], [' integers [0, 1, 1] world,.\\n', ' 1'])

The corpus is random-access: example i depends on the seed and i alone, so that a stopped run goes on exactly where it was.
Its index is also a *curriculum*: lists grow with i. Copying appears within minutes on lists of four items and is then
stretched; started on long lists, the tiny model learns nothing for a long time.
"""

import dataclasses
import random
from collections.abc import Callable
from functools import partial

# Words of sentences: every word that a task's wording may use, and as many that none does.
WORDS = (
    "what is the parity of compute maximum sum nonadjacent subsequences create dp array chosen indices item can use true "
    "false call with minus first element append return max if negative else there only we should it to get output carry "
    "take put make find show give list number row set tell color tree house water green blue old new one two time day "
    "way man thing world life hand part place work week case point question let solve input finally reconstruct "
    "lexicographically smallest subsequence that fulfills task objective by selecting numbers as follows store result on "
    "named next since and update reconstructing all together given sequence integers highest such no are adjacent in "
    "original for chosen ones unchosen multiple solutions exist select at time"
).split()
# Cues ask for something; any cue that is in none of the special groups asks for the rest of the sentence's list.
FIRST, LAST, WHOLE = ("First", "Head", "Begin"), ("Last", "Tail", "End"), ("Repeat", "Copy", "Again")
CUES = (
    "Solution Answer Call Next Then Output Result Go Rest Step Work Say Write Line Text Task Note Reply Move Do Now So Return"
).split()
VALUE = ("Value", "Answer", "Result")  # behind a question for a fact
YES_NO = {True: "yes", False: "no"}


def _sentence(rng: random.Random, *values: str) -> str:
    """Random words with the values among them, in order: `make house [1, 0] of [2]?`."""
    parts = []
    for value in values:
        parts += [_word(rng) for _ in range(rng.choice((0, 1, 1, 2, 3, 4, 5)))]
        parts.append(value)
    tail = [_word(rng) for _ in range(rng.choice((0, 0, 0, 1, 2)))]
    return " ".join(parts + tail) + rng.choice(("", "", "?", ".", ":"))


def _word(rng: random.Random) -> str:
    word = rng.choice(WORDS)
    return word.capitalize() if rng.random() < 0.25 else word + rng.choice(("", "", "", "", ":", ","))


def _items(rng: random.Random, count: int, repeats: float) -> list[str]:
    """A list's items: bits, digits, or, where it is not long, signed or longer numbers (which take a token more)."""
    low, high = rng.choice(((0, 1), (0, 1), (0, 9), rng.choice(((-5, 5), (0, 99))) if count <= 36 else (0, 9)))
    return _repeating(rng, [str(rng.randint(low, high)) for _ in range(count)], repeats)


def _repeating(rng: random.Random, items: list[str], repeats: float) -> list[str]:
    """The items, or, with this probability, most of them the same as the one before."""
    if repeats and rng.random() < repeats:
        for i in range(1, len(items)):
            items[i] = items[i - 1] if rng.random() < 0.8 else items[i]
    return items


def _shown(items: list[str]) -> str:
    return f"[{', '.join(items)}]"


@dataclasses.dataclass(frozen=True)
class _Draft:
    """An example under construction: the texts that alternate, input first; and how many of its lists repeat items."""

    inputs: list[str]
    outputs: list[str]
    repeats: float

    def ask(self, given: str, wanted: str):
        self.inputs.append(given)
        self.outputs.append(wanted)


def _rewrite(rng: random.Random, length: int, draft: _Draft):
    """A sentence with one or two lists, to be written again without their first items, or whole; then, perhaps, questions."""
    lists = [_items(rng, length, draft.repeats)]
    if length <= 24 and rng.random() < 0.2:
        lists.append(_items(rng, rng.randint(max(1, length - 1), length), draft.repeats))
    state = rng.getstate()
    text = _sentence(rng, *map(_shown, lists))
    rng.setstate(state)  # the same words again, around the shorter lists
    rest = _sentence(rng, *(_shown(items[1:]) for items in lists))
    whole = length < 2 or rng.random() < 0.15
    cue = rng.choice(WHOLE) if whole else rng.choice(CUES)
    wanted = text if whole else rest
    style = rng.random()
    if style < 0.35:
        draft.ask(f" {text}\n{cue}:", f" {wanted}\n")
    elif style < 0.9:
        draft.ask(f" {text}\n{cue}: {rng.choice(CUES)}:", f" {wanted}\n")
    else:
        draft.ask(f" {text}\n{cue}:", f" {rng.choice(CUES)}: {wanted}\n")
    before = ""
    for _ in range(rng.choice((0, 1, 1, 2))):
        _ask_of_ends(rng, lists[0], before, draft)
        before = "\n"


def _noise(rng: random.Random) -> str:
    """Now and then a labelled line that has nothing to do with the question after it."""
    return "" if rng.random() < 0.4 else f"{rng.choice(CUES)}: {rng.randint(0, 9)}\n"


def _ends(rng: random.Random, length: int, draft: _Draft):
    """Questions about what comes first or last in a sentence's list, or first in its numbers."""
    if rng.random() < 0.6:
        items = _items(rng, length, draft.repeats)
        before = f" {_sentence(rng, _shown(items))}\n"
        firsts, facts, ask = [int(items[0])], _facts_for(items), partial(_ask_of_ends, rng, items)
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
        item, *items = _items(rng, length, draft.repeats)
        before, wanted = _shown(items), _shown([item, *items])
    else:
        item, before = str(rng.randint(0, 9)), _number(rng, length, draft.repeats)
        wanted = item + before
    draft.ask(f" {_sentence(rng, before)}\n{_noise(rng)}Put before: {item}\n{rng.choice(CUES)}:", f" {wanted}")


def _number(rng: random.Random, digits: int, repeats: float) -> str:
    return "".join(_repeating(rng, [rng.choice("0123456789") for _ in range(digits)], repeats))


def _number_sentence(rng: random.Random, length: int, repeats: float) -> tuple[list[str], Callable[[int], str]]:
    """One or two numbers, and the sentence about them when so many of their first digits are left out."""
    numbers = [_number(rng, length, repeats)]
    if rng.random() < 0.6:
        numbers.append(_number(rng, length if rng.random() < 0.7 else rng.randint(1, length), repeats))
    words = [[_word(rng) for _ in range(rng.choice((0, 0, 1, 2, 3)))] for _ in numbers]
    joint = rng.choice(("and", "+", "with", ",", "then"))
    if joint == "+" and not words[-1]:
        joint = "plus"  # numbers on both sides of a + would be addition's own question

    def sentence(cut):
        texts = [" ".join([*some, number[cut:]]) for some, number in zip(words, numbers)]
        return f" {joint} ".join(texts)

    return numbers, sentence


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


@dataclasses.dataclass(frozen=True)
class _Fact:
    """Something to know about small numbers: its name, the ranges they come from, how it is asked, and the answer."""

    name: str
    ranges: tuple[tuple[int, int], ...]
    forms: tuple[str, ...]
    value: Callable[..., str]

    def draw(self, rng: random.Random) -> list[int]:
        """Its numbers: small ones more often than not, and equal ones more often than by chance."""
        numbers = [rng.randint(low, high if rng.random() < 0.4 else min(high, 9)) for low, high in self.ranges]
        if rng.random() < 0.2 and self.ranges[0] == self.ranges[1]:
            numbers[1] = numbers[0]
        return numbers


def _carry(*numbers: int) -> str:
    return f"carry {sum(numbers) // 10}, digit {sum(numbers) % 10}"


BIT, DIGIT, SIGNED, LARGE = (0, 1), (0, 9), (-9, 9), (-9, 99)
XOR = _Fact(
    "Xor",
    (BIT, BIT),
    ("{} xor {}", "xor of {} and {}", "{} or {} but not both", "exclusive or of {} with {}"),
    lambda a, b: str(a ^ b),
)
SUM = _Fact("Plus", (DIGIT, DIGIT), ("{} plus {}", "add {} and {}", "{} and {} make"), _carry)
SUM_WITH_CARRY = _Fact("Plus", (DIGIT, DIGIT, BIT), ("{} plus {} with carry {}", "add {} and {} and carry {}"), _carry)
MAX = _Fact("Max", (LARGE, LARGE), ("max of {} and {}", "larger of {} and {}"), lambda a, b: str(max(a, b)))
MIN = _Fact("Min", (SIGNED, SIGNED), ("smaller of {} and {}",), lambda a, b: str(min(a, b)))
MOVE = _Fact("Total", (LARGE, SIGNED), ("{} moved by {}", "{} added to {}"), lambda a, b: str(a + b))
SAME = _Fact("Same", (DIGIT, DIGIT), ("is {} equal to {}", "{} same as {}"), lambda a, b: YES_NO[a == b])
FACTS = (XOR, XOR, XOR, SUM, SUM, SUM_WITH_CARRY, SUM_WITH_CARRY, SUM_WITH_CARRY, MAX, MIN, MOVE, SAME)


def _facts(rng: random.Random, length: int, draft: _Draft):
    """Several facts; often their numbers stand on lines of their own, apart from the question."""
    before = " "
    for _ in range(rng.randint(4, 8)):
        fact = rng.choice(FACTS)
        numbers = fact.draw(rng)
        if rng.random() < 0.5:
            question = rng.choice(fact.forms).format(*numbers)
            draft.ask(f"{before}{question}\n{rng.choice(VALUE)}:", f" {fact.value(*numbers)}")
        else:
            _ask_by_name(rng, fact, numbers, {}, before, draft)
        before = "\n"


def _ask_by_name(rng: random.Random, fact: _Fact, numbers: list[int], names: dict[int, str], before: str, draft: _Draft):
    """Asks for a fact by the names of its numbers: the given ones, and for the others labels of lines put before."""
    noise, *labels = rng.sample(CUES, 1 + len(numbers))
    named = [names.get(place, label) for place, label in enumerate(labels)]
    lines = [f"{label}: {numbers[place]}\n" for place, label in enumerate(labels) if place not in names]
    if rng.random() < 0.4:
        lines.insert(rng.randint(0, len(lines)), f"{noise}: {rng.randint(0, 9)}\n")
    question = rng.choice(fact.forms).format(*named) + (f"\n{rng.choice(VALUE)}" if rng.random() < 0.7 else "")
    draft.ask(f"{before}{''.join(lines)}{question}:", f" {fact.value(*numbers)}")


def _facts_for(items: list[str]) -> tuple[_Fact, ...]:
    """The facts that can be asked of a list's items."""
    if set(items) <= {"0", "1"}:
        return XOR, XOR, XOR, MAX
    return (SUM, SAME, MAX, MIN, MOVE) if all(len(item) == 1 for item in items) else (MAX, MOVE)


def _ask_of_ends(rng: random.Random, items: list[str], before: str, draft: _Draft):
    """Asks for the first or last item of a list, or for a fact of it and another number."""
    cues, item = rng.choice(((FIRST, 0), (FIRST, 0), (LAST, -1)))
    cue = rng.choice(cues)
    if rng.random() < 0.5:
        draft.ask(f"{before}{_noise(rng)}{cue}:", f" {items[item]}")
    else:
        fact, place = rng.choice(_facts_for(items)), rng.randint(0, 1)
        numbers = fact.draw(rng)
        numbers[place] = int(items[item])
        _ask_by_name(rng, fact, numbers, {place: cue}, before, draft)


def _ask_of_firsts(rng: random.Random, firsts: list[int], before: str, draft: _Draft):
    """Asks for the first digits of a sentence's numbers, or for their sum."""
    cue = rng.choice(FIRST)
    if rng.random() < 0.4:
        draft.ask(f"{before}{_noise(rng)}{cue}:", f" {' '.join(map(str, firsts))}")
    else:
        digits = [*firsts, *SUM_WITH_CARRY.draw(rng)[len(firsts) :]]
        _ask_by_name(rng, SUM_WITH_CARRY, digits, dict.fromkeys(range(len(firsts)), cue), before, draft)


SKILLS = ((_rewrite, 36), (_ends, 16), (_facts, 22), (_numbers, 18), (_prepend, 8))


class Corpus:
    """A random-access source of examples `{"inputs", "outputs", "length"}`, as a prepared data set's.

    Args:
        seed: another seed is another corpus.
        examples: how many there are.
        curriculum: points (index, items), in the order of their index: the longest list at that example. Between points it
            grows linearly.
        repeats: share of the lists and numbers in which most items repeat the one before. Where a list has a long run of
            one item, only the place tells what to copy next.
    """

    def __init__(self, seed: int, examples: int, curriculum: tuple[tuple[int, int], ...], repeats: float = 0.0):
        self.seed, self.examples, self.curriculum, self.repeats = seed, examples, curriculum, repeats

    def __len__(self) -> int:
        return self.examples

    def longest(self, index: int) -> int:
        """The longest list at this example."""
        (start, items), *points = self.curriculum
        for end, goal in points:
            if index < end:
                return round(items + (goal - items) * max(0, index - start) / (end - start))
            start, items = end, goal
        return items

    def __getitem__(self, index: int) -> dict:
        """Example `index`: alternating texts, each output to be predicted after its input."""
        if not 0 <= index < self.examples:
            raise IndexError(index)
        rng = random.Random(f"{self.seed}/{index}")
        longest = self.longest(index)
        # Half of the lists are near the longest there is by now: that is where there is most to learn.
        length = rng.randint(max(1, longest - 6), longest) if rng.random() < 0.4 else rng.randint(1, longest)
        draft = _Draft([], [], self.repeats)
        rng.choices([skill for skill, _ in SKILLS], [share for _, share in SKILLS])[0](rng, length, draft)
        return {"inputs": draft.inputs, "outputs": draft.outputs, "length": length}
