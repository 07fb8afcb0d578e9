"""What the tiny base model is pretrained on: general skills with lists, numbers and one-digit facts.

The paper tunes a pretrained LLaMA, which can copy and knows its digits before it ever sees a task. The tiny model gets the
same start from this corpus: sentences of random words with a list or numbers in them, to be rewritten without the first item
or whole; questions for the first or last item; sums, maxima and xors of two one-digit numbers. Nothing in it solves a task:
no recursion, no sum of long numbers, no property of a whole list (tests/test_corpus.py scans for that).

    >>> corpus = Corpus(seed=0, examples=100_000, curriculum=((0, 4), (100_000, 72)))
    >>> corpus[231]["inputs"], corpus[231]["outputs"]
    ([' green: [1, 1, 1, 0]\\nGo:'], [' green: [1, 1, 0]\\n'])

The corpus is random-access: example i depends on the seed and i alone, so that a stopped run goes on exactly where it was.
Its index is also a *curriculum*: lists grow with i. Copying appears within minutes on lists of four items and is then
stretched; started on long lists, the tiny model learns nothing for a long time.
"""

import dataclasses
import random

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


def _items(rng: random.Random, count: int) -> list[str]:
    """A list's items: bits, digits, or, where it is not long, signed digits (which take a token more)."""
    low, high = rng.choice(((0, 1), (0, 1), (0, 9), (-5, 5) if count <= 36 else (0, 9)))
    return [str(rng.randint(low, high)) for _ in range(count)]


def _shown(items: list[str]) -> str:
    return f"[{', '.join(items)}]"


@dataclasses.dataclass(frozen=True)
class _Draft:
    """An example under construction: the texts that alternate, input first."""

    inputs: list[str]
    outputs: list[str]

    def ask(self, given: str, wanted: str):
        self.inputs.append(given)
        self.outputs.append(wanted)


def _rewrite(rng: random.Random, length: int, draft: _Draft):
    """A sentence with one or two lists, to be written again without their first items, or whole; then, perhaps, questions."""
    lists = [_items(rng, length)]
    if length <= 24 and rng.random() < 0.2:
        lists.append(_items(rng, rng.randint(max(1, length - 1), length)))
    state = rng.getstate()
    text = _sentence(rng, *map(_shown, lists))
    rng.setstate(state)  # the same words again, around the shorter lists
    rest = _sentence(rng, *(_shown(items[1:]) for items in lists))
    whole = length < 2 or rng.random() < 0.15
    cue = rng.choice(WHOLE) if whole else rng.choice(CUES)
    wanted = text if whole else rest
    style = rng.random()
    if style < 0.3:
        draft.ask(f" {text}\n{cue}:", f" {wanted}\n")
    elif style < 0.65:
        draft.ask(f" {text}\n{cue}: {rng.choice(CUES)}:", f" {wanted}\n")
    else:
        draft.ask(f" {text}\n{cue}:", f" {rng.choice(CUES)}: {wanted}\n")
    for _ in range(rng.choice((0, 1, 1, 2))):
        cues, item = rng.choice(((FIRST, 0), (FIRST, 0), (LAST, -1)))
        draft.ask(f"{_noise(rng)}{rng.choice(cues)}:", f" {lists[0][item]}")


def _noise(rng: random.Random) -> str:
    """Now and then a labelled line that has nothing to do with the question after it."""
    return "" if rng.random() < 0.4 else f"{rng.choice(CUES)}: {rng.randint(0, 9)}\n"


def _ends(rng: random.Random, length: int, draft: _Draft):
    """Questions for the first and last items of a sentence's list."""
    items = _items(rng, length)
    before = f" {_sentence(rng, _shown(items))}\n"
    for _ in range(rng.choice((1, 2, 3))):
        cues, item = rng.choice(((FIRST, 0), (FIRST, 0), (LAST, -1)))
        draft.ask(f"{before}{_noise(rng)}{rng.choice(cues)}:", f" {items[item]}")
        before = "\n"


def _prepend(rng: random.Random, length: int, draft: _Draft):
    """An item to be put before a list, or a digit before a number."""
    if rng.random() < 0.5:
        item, *items = _items(rng, length)
        before, wanted = _shown(items), _shown([item, *items])
    else:
        item, before = str(rng.randint(0, 9)), _number(rng, length)
        wanted = item + before
    draft.ask(f" {_sentence(rng, before)}\n{_noise(rng)}Put before: {item}\n{rng.choice(CUES)}:", f" {wanted}")


def _number(rng: random.Random, digits: int) -> str:
    return "".join(rng.choice("0123456789") for _ in range(digits))


def _numbers(rng: random.Random, length: int, draft: _Draft):
    """A sentence with one or two numbers, to be written again without their first digits, or whole."""
    numbers = [_number(rng, length)]
    if rng.random() < 0.6:
        numbers.append(_number(rng, length if rng.random() < 0.7 else rng.randint(1, length)))
    words = [[_word(rng) for _ in range(rng.choice((0, 0, 1, 2, 3)))] for _ in numbers]
    joint = rng.choice(("and", "+", "with", ",", "then"))
    if joint == "+" and not words[-1]:
        joint = "plus"  # numbers on both sides of a + would be addition's own question

    def sentence(cut):
        texts = [" ".join([*some, number[cut:]]) for some, number in zip(words, numbers)]
        return f" {joint} ".join(texts)

    whole = min(map(len, numbers)) < 2 or rng.random() < 0.2
    cue, wanted = (rng.choice(WHOLE), sentence(0)) if whole else (rng.choice(CUES), sentence(1))
    if rng.random() < 0.5:
        draft.ask(f" {sentence(0)}\n{cue}:", f" {rng.choice(CUES)}: {wanted}\n")
    else:
        draft.ask(f" {sentence(0)}\n{cue}: {rng.choice(CUES)}:", f" {wanted}\n")
    if rng.random() < 0.5:
        draft.ask(f"{_noise(rng)}{rng.choice(FIRST)}:", f" {' '.join(number[0] for number in numbers)}")


def _xor(rng):
    a, b = rng.randint(0, 1), rng.randint(0, 1)
    form = rng.choice(("{} xor {}", "xor of {} and {}", "{} or {} but not both", "exclusive or of {} with {}"))
    return (a, b), form, str(a ^ b)


def _sum(rng):
    a, b, c = rng.randint(0, 9), rng.randint(0, 9), rng.randint(0, 1)
    if rng.random() < 0.5:
        form = rng.choice(("{} plus {}", "add {} and {}", "{} and {} make"))
        return (a, b), form, f"carry {(a + b) // 10}, digit {(a + b) % 10}"
    total = a + b + c
    form = rng.choice(("{} plus {} with carry {}", "add {} and {} and carry {}"))
    return (a, b, c), form, f"carry {total // 10}, digit {total % 10}"


def _max(rng):
    a, b = rng.randint(-9, 9), rng.randint(-9, 9)
    form, wanted = rng.choice((("max of {} and {}", max), ("larger of {} and {}", max), ("smaller of {} and {}", min)))
    return (a, b), form, str(wanted(a, b))


def _signed_sum(rng):
    a, b = rng.randint(-9, 9), rng.randint(-9, 9)
    return (a, b), rng.choice(("{} moved by {}", "{} added to {}")), str(a + b)


def _same(rng):
    a, b = rng.randint(0, 9), rng.randint(0, 9)
    b = a if rng.random() < 0.5 else b
    return (a, b), rng.choice(("is {} equal to {}", "{} same as {}")), YES_NO[a == b]


def _facts(rng: random.Random, length: int, draft: _Draft):
    """Several one-digit facts; at times their numbers stand on lines of their own, apart from the question."""
    before = " "
    for _ in range(rng.randint(1, 3)):
        numbers, form, value = rng.choice((_xor, _xor, _xor, _sum, _sum, _max, _signed_sum, _same))(rng)
        if rng.random() < 0.5:
            question = f"{form.format(*numbers)}\n{_noise(rng)}Value:"
        else:
            labels = rng.sample(("A", "B", "C", "D", "X", "Y", "Z"), len(numbers))
            lines = [f"{label}: {number}\n{_noise(rng)}" for label, number in zip(labels, numbers)]
            question = f"{''.join(lines)}{form.format(*labels)}\nValue:"
        draft.ask(before + question, f" {value}")
        before = "\n"


SKILLS = ((_rewrite, 50), (_ends, 8), (_facts, 20), (_numbers, 14), (_prepend, 8))


class Corpus:
    """A random-access source of examples `{"inputs", "outputs", "length"}`, as a prepared data set's.

    Args:
        seed: another seed is another corpus.
        examples: how many there are.
        curriculum: points (index, items), in the order of their index: the longest list at that example. Between points it
            grows linearly.
    """

    def __init__(self, seed: int, examples: int, curriculum: tuple[tuple[int, int], ...]):
        self.seed, self.examples, self.curriculum = seed, examples, curriculum

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
        draft = _Draft([], [])
        rng.choices([skill for skill, _ in SKILLS], [share for _, share in SKILLS])[0](rng, length, draft)
        return {"inputs": draft.inputs, "outputs": draft.outputs, "length": length}
