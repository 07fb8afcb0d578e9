"""Sentences of random words with lists and numbers in them: what the corpus asks its questions about.

    >>> rng = random.Random(33)
    >>> frame(rng, 2)
    'with time: ones, {} exist, life exist {}.'
    >>> shown(items(rng, 6, repeats=0.0)), shown(items(rng, 12, repeats=1.0))
    ('[-8, 4, -1, 1, 8, -2]', '[4, 3, 1, 5, 1, 5, 3, 8, 4, 3, 1, 5]')

A model copies by looking up the last few tokens and writing what came behind them. That fails where a stretch stands twice,
so a share of all lists and numbers repeat themselves, in four ways.
"""

import random
from collections.abc import Callable

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
SIGNED_UP_TO = 40  # items: signed or longer numbers take a token more, and a list of more of them too many


def word(rng: random.Random) -> str:
    """A word, now and then with a capital, a comma or a colon."""
    plain = rng.choice(WORDS)
    return plain.capitalize() if rng.random() < 0.25 else plain + rng.choice(("", "", "", "", ":", ","))


def frame(rng: random.Random, places: int) -> str:
    """A sentence with so many places `{}` for values: `make house {} of {}?`."""
    parts = []
    for _ in range(places):
        parts += [word(rng) for _ in range(rng.choice((0, 1, 1, 2, 3, 4, 5)))]
        parts.append("{}")
    tail = [word(rng) for _ in range(rng.choice((0, 0, 0, 1, 2)))]
    return " ".join(parts + tail) + rng.choice(("", "", "?", ".", ":"))


def labels(rng: random.Random) -> tuple[str, str]:
    """Two names for values, both capitalised or neither; none that asks for something, nor the one of addition's own values."""
    first, second = rng.sample([plain for plain in WORDS if plain not in ("first", "output")], 2)
    return (first.capitalize(), second.capitalize()) if rng.random() < 0.5 else (first, second)


def items(rng: random.Random, count: int, repeats: float) -> list[str]:
    """A list's items: bits, digits, or, where it is not long, signed or longer numbers."""
    wide = rng.choice(((-5, 5), (-9, 9), (0, 99))) if count <= SIGNED_UP_TO else (0, 9)
    low, high = rng.choice(((0, 1), (0, 1), (0, 9), wide))
    return repeating(rng, [str(rng.randint(low, high)) for _ in range(count)], repeats)


def signed_items(rng: random.Random, count: int, repeats: float) -> list[str]:
    """Items of which about half are negative, or sums of some."""
    low, high = rng.choice(((-5, 5), (-9, 9), (0, 20), (0, 60)))
    return repeating(rng, [str(rng.randint(low, high)) for _ in range(count)], repeats)


def number(rng: random.Random, digits: int, repeats: float) -> str:
    """A number of so many digits; it may begin with zeros."""
    return "".join(repeating(rng, [rng.choice("0123456789") for _ in range(digits)], repeats))


def shown(items: list[str]) -> str:
    """The items as a list is written."""
    return f"[{', '.join(items)}]"


def number_sentence(rng: random.Random, length: int, repeats: float) -> tuple[list[str], Callable[[int], str]]:
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


def repeating(rng: random.Random, items: list[str], share: float) -> list[str]:
    """The items, or, with this probability, so that stretches of them stand more than once."""
    if rng.random() >= share or len(items) < 4:
        return items
    return rng.choices((_runs, _period, _stretches, _mostly_one), (25, 25, 35, 15))[0](rng, list(items))


def _runs(rng: random.Random, items: list[str]) -> list[str]:
    """Long runs of one item."""
    stay = rng.choice((0.6, 0.8, 0.9))
    for i in range(1, len(items)):
        items[i] = items[i - 1] if rng.random() < stay else items[i]
    return items


def _period(rng: random.Random, items: list[str]) -> list[str]:
    """The same few items over and over, with a slip now and then."""
    period, slip = rng.randint(2, 9), rng.choice((0.0, 0.03, 0.1))
    for i in range(period, len(items)):
        items[i] = items[i] if rng.random() < slip else items[i - period]
    return items


def _stretches(rng: random.Random, items: list[str]) -> list[str]:
    """Stretches of up to half the list that stand somewhere else again."""
    for _ in range(rng.choice((1, 1, 2, 3))):
        size = rng.randint(2, len(items) // 2)
        source, to = (rng.randint(0, len(items) - size) for _ in range(2))
        items[to : to + size] = items[source : source + size]
    return items


def _mostly_one(rng: random.Random, items: list[str]) -> list[str]:
    """One item nearly everywhere."""
    share = rng.choice((0.05, 0.1, 0.2, 0.3))
    return [items[-1] if rng.random() < share else items[0] for _ in items]
