"""Questions for the first or last item of a list, the first digits of numbers, and facts about them."""

import random
from functools import partial

from retune_jax.data.corpus.draft import CUES, FIRST, LAST, VALUE, Draft, noise
from retune_jax.data.corpus.facts import FACTS, SUM_WITH_CARRY, Fact, facts_for
from retune_jax.data.corpus.sentences import frame, items, labels, number, number_sentence, shown


def ends(rng: random.Random, draft: Draft):
    """Questions about what comes first or last in a sentence's list, or first in its numbers."""
    if rng.random() < 0.6:
        some = items(rng, draft.length, draft.repeats)
        before = f" {frame(rng, 1).format(shown(some))}\n"
        firsts, facts, ask = [int(some[0])], facts_for(some), partial(ask_of_ends, rng, some)
    else:
        numbers, sentence = number_sentence(rng, draft.length, draft.repeats)
        before = f" {sentence(0)}\n"
        firsts, facts = [int(number[0]) for number in numbers], (SUM_WITH_CARRY,)
        ask = partial(ask_of_firsts, rng, firsts)
    for _ in range(rng.choice((1, 2, 3))):
        if rng.random() < 0.5:
            fact = rng.choice(facts)
            others = fact.draw(rng)[len(firsts) :]
            lines = "".join(f"{rng.choice(CUES)}: {number}\n" for number in others)
            draft.ask(f"{before}{noise(rng)}{lines}{fact.name}:", f" {fact.value(*firsts, *others)}")
        else:
            ask(before, draft)
        before = "\n"


def facts(rng: random.Random, draft: Draft):
    """Several facts; often their numbers stand on lines of their own, apart from the question."""
    before = " "
    for _ in range(rng.randint(4, 8)):
        fact = rng.choice(FACTS)
        numbers = fact.draw(rng)
        if rng.random() < 0.5:
            asked, value = _in_words(rng, fact, numbers)
            draft.ask(f"{before}{rng.choice(fact.forms).format(*numbers)}{asked}\n{rng.choice(VALUE)}:", value)
        else:
            ask_by_name(rng, fact, numbers, {}, before, draft)
        before = "\n"


def ask_of_ends(rng: random.Random, some: list[str], before: str, draft: Draft):
    """Asks for the first or last item of a list, or for a fact of it and another number."""
    cues, item = rng.choice(((FIRST, 0), (FIRST, 0), (LAST, -1)))
    cue = rng.choice(cues)
    if rng.random() < 0.5:
        draft.ask(f"{before}{noise(rng)}{cue}:", f" {some[item]}")
    else:
        fact, place = rng.choice(facts_for(some)), rng.randint(0, 1)
        numbers = fact.draw(rng)
        numbers[place] = int(some[item])
        ask_by_name(rng, fact, numbers, {place: cue}, before, draft)


def ask_of_firsts(rng: random.Random, firsts: list[int], before: str, draft: Draft):
    """Asks for the first digits of a sentence's numbers, or for their sum."""
    cue = rng.choice(FIRST)
    if rng.random() < 0.4:
        draft.ask(f"{before}{noise(rng)}{cue}:", f" {' '.join(map(str, firsts))}")
    else:
        digits = [*firsts, *SUM_WITH_CARRY.draw(rng)[len(firsts) :]]
        ask_by_name(rng, SUM_WITH_CARRY, digits, dict.fromkeys(range(len(firsts)), cue), before, draft)


def ask_by_name(rng: random.Random, fact: Fact, numbers: list[int], names: dict[int, str], before: str, draft: Draft):
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


def _in_words(rng: random.Random, fact: Fact, numbers: list[int]) -> tuple[str, str]:
    """The end of a question, which may choose the names in the answer, and the answer."""
    if not fact.named or rng.random() < 0.5:
        return "", f" {fact.value(*numbers)}"
    names = labels(rng)
    return " as {} and {}".format(*names), f" {fact.value(*numbers, names=names)}"
