"""Expressions with items of lists, `max(a[0], b[0] + a[1])`, and what a calculator says to them."""

import random

from retune_jax.data.corpus.copying import ask_to_rewrite
from retune_jax.data.corpus.draft import CUES, Draft, lines, of_pair
from retune_jax.data.corpus.sentences import frame, repeating, shown, signed_items

LONGEST_SUMMED = 14  # items of lists whose sums are close


def expressions(rng: random.Random, draft: Draft):
    """Two lists, and what a calculator says to expressions with their first items; perhaps put before a list.

    The lists have labels, or stand in a sentence, where `a` is the first one and `b` the second.
    """
    count, sentence = max(2, of_pair(rng, draft) - 1), rng.random() < 0.5
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
        before = f" {lines({name: shown(some) for name, some in lists.items()})}"
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


def close_sums(rng: random.Random, draft: Draft):
    """Two lists in a sentence, perhaps to be written again without their first items, then whether one item is another one, or
    the sum of two others: it always nearly is, so that only calculating tells."""
    count = rng.randint(1, 4) if rng.random() < 0.5 else rng.randint(1, min(draft.length, LONGEST_SUMMED))
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
        ask_to_rewrite(rng, sentence, [*lists.values()], draft)
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


def _ask_to_calculate(before: str, text: str, cue: str, value: int, put: tuple[str, list[str]] | None, draft: Draft):
    """Asks for an expression's value, or for the list that is to be `put` behind it, given by its name and its items."""
    if put:
        name, some = put
        draft.ask(f"{before}Put before {name}: {text}\n{cue}:", f" {shown([str(value), *some])}")
    else:
        draft.ask(f"{before}{text}\n{cue}:", f" {value}")
