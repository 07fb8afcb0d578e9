"""Sentences, lists, numbers and labelled values, to be written again: whole, in part, or in another place."""

import random

from retune_jax.data.corpus.draft import CUES, LOOKUPS, WHOLE, Draft, lines, noise, of_pair
from retune_jax.data.corpus.questions import ask_of_ends, ask_of_firsts
from retune_jax.data.corpus.sentences import frame, items, labels, number, number_sentence, shown, signed_items


def rewrite(rng: random.Random, draft: Draft):
    """A sentence with one or two lists, to be written again without their first items, or whole; then, perhaps, questions."""
    pair = rng.random() < 0.3
    length = of_pair(rng, draft) if pair else draft.length
    lists = [items(rng, length, draft.repeats)]
    if pair:
        lists.append(items(rng, length if rng.random() < 0.8 else max(1, length - 1), draft.repeats))
    ask_to_rewrite(rng, frame(rng, len(lists)), lists, draft)
    before = ""
    for _ in range(rng.choice((0, 1, 1, 2))):
        ask_of_ends(rng, lists[0], before, draft)
        before = "\n"


def ask_to_rewrite(rng: random.Random, sentence: str, lists: list[list[str]], draft: Draft):
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


def numbers(rng: random.Random, draft: Draft):
    """A sentence with one or two numbers, to be written again without their first digits, or whole; perhaps a question."""
    numbers, sentence = number_sentence(rng, draft.length, draft.repeats)
    whole = min(map(len, numbers)) < 2 or rng.random() < 0.2
    cue, wanted = (rng.choice(WHOLE), sentence(0)) if whole else (rng.choice(CUES), sentence(1))
    if rng.random() < 0.2:
        draft.ask(f" {sentence(0)}\n{cue}:", f" {rng.choice(CUES)}: {wanted}\n")
    else:
        draft.ask(f" {sentence(0)}\n{cue}: {rng.choice(CUES)}:", f" {wanted}\n")
    if rng.random() < 0.7:
        ask_of_firsts(rng, [int(number[0]) for number in numbers], "", draft)


def prepend(rng: random.Random, draft: Draft):
    """An item to be put before a list, or a digit before a number."""
    if rng.random() < 0.5:
        item, *rest = items(rng, draft.length, draft.repeats)
        before, wanted = shown(rest), shown([item, *rest])
    else:
        item, before = str(rng.randint(0, 9)), number(rng, draft.length, draft.repeats)
        wanted = item + before
    sentence = frame(rng, 1).format(before)
    draft.ask(f" {sentence}\n{noise(rng)}Put before: {item}\n{rng.choice(CUES)}:", f" {wanted}")


def fields(rng: random.Random, draft: Draft):
    """A line of two labelled values, to be written again: whole, or with another first value and a digit before the number."""
    first, second = labels(rng)
    digit, behind = rng.randint(0, rng.choice((1, 9))), number(rng, draft.length, draft.repeats)
    before = f" {frame(rng, 1).format(number(rng, draft.length, draft.repeats))}\n" if rng.random() < 0.4 else " "
    line = f"{before}{rng.choice(CUES)}: {first} {digit}, {second} {behind}\n"
    if rng.random() < 0.2:
        draft.ask(f"{line}{rng.choice(WHOLE)}:", f" {first} {digit}, {second} {behind}")
        return
    item, change = rng.randint(0, 9), ""
    if rng.random() < 0.5:
        digit = rng.randint(0, 1)
        change = f"Set {first}: {digit}\n"
    draft.ask(f"{line}{change}Put before: {item}\n{rng.choice(CUES)}:", f" {first} {digit}, {second} {item}{behind}")


def lookup(rng: random.Random, draft: Draft):
    """Labelled values, some of which are asked for."""
    names = rng.sample(CUES, rng.randint(2, 6))
    values = {name: _value(rng, rng.randint(1, min(draft.length, 12)), draft.repeats) for name in names}
    before = f" {lines(values)}"
    for _ in range(rng.randint(2, 6)):
        name, cue = rng.choice(names), rng.choice(CUES)
        asked = f"{rng.choice(LOOKUPS).format(name)}\n{cue}" if rng.random() < 0.75 else name
        draft.ask(f"{before}{asked}:", f" {values[name]}")
        before = "\n"


def fill(rng: random.Random, draft: Draft):
    """A form in which the labels of lists or numbers stand, to be written with these in their places."""
    places = rng.choice((1, 2, 2, 2, 2, 3, 4))
    length = of_pair(rng, draft) if places < 3 else rng.randint(1, min(draft.length, 12))
    form = frame(rng, places)
    *names, cue = rng.sample([cue for cue in CUES if cue not in form], places + 1)
    values = {name: _value(rng, length, draft.repeats) for name in names}
    order = rng.sample(names, places) if rng.random() < 0.7 else names
    filled = form.format(*(values[name] for name in order))
    draft.ask(f" {lines(values)}Form: {form.format(*order)}\n{cue}:", f" {filled}\n")


def _value(rng: random.Random, length: int, repeats: float) -> str:
    """A list, or a number."""
    draw = rng.choice((items, signed_items, None))
    return shown(draw(rng, length, repeats)) if draw else number(rng, length, repeats)
