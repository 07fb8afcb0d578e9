"""What the tiny base model is pretrained on: general skills with lists, numbers and one-digit facts.

The paper tunes a pretrained LLaMA, which can copy and knows its digits before it ever sees a task. The tiny model gets the
same start from this corpus: sentences of random words with lists or numbers in them (sentences.py), to be rewritten
without the first items or whole; questions for the first or last item; facts about small numbers (facts.py), which stand
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

import random

from retune_jax.data.corpus import calculating, copying, questions
from retune_jax.data.corpus.draft import LONGEST_PAIR, TOKENS_OF_PAIR, Draft

SKILLS = (
    (copying.rewrite, 19),
    (questions.ends, 7),
    (questions.facts, 9),
    (copying.numbers, 14),
    (copying.prepend, 6),
    (copying.fields, 8),
    (copying.lookup, 8),
    (copying.fill, 12),
    (calculating.expressions, 17),
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
        draft = Draft([], [], self.repeats, length, self.pair)
        if self.sums and rng.random() < self.sums:
            calculating.close_sums(rng, draft)
        else:
            rng.choices([skill for skill, _ in SKILLS], [share for _, share in SKILLS])[0](rng, draft)
        return {"inputs": draft.inputs, "outputs": draft.outputs, "length": length}


def _length(rng: random.Random, longest: int) -> int:
    """Of a list: often near the longest there is by now, where there is most to learn, and long more often than short."""
    kind = rng.random()
    if kind < 0.35:
        return rng.randint(max(1, longest - 6), longest)
    return max(rng.randint(1, longest) for _ in range(2 if kind < 0.65 else 1))
