"""An example of the corpus under construction, and the words that ask for something."""

import dataclasses
import random

# Cues ask for something; any cue that is in none of the special groups asks for the rest of the sentence's list.
FIRST, LAST, WHOLE = ("First", "Head", "Begin"), ("Last", "Tail", "End"), ("Repeat", "Copy", "Again")
CUES = (
    "Solution Answer Call Next Then Output Result Go Rest Step Work Say Write Line Text Task Note Reply Move Do Now So Return"
).split()
VALUE = ("Value", "Answer", "Result")  # behind a question for a fact
LOOKUPS = ("Say {}", "Show {}", "What is {}?", "{} again", "{}")
LONGEST_PAIR, TOKENS_OF_PAIR = 40, 18  # items of lists that stand in twos, and tokens that one in each takes at most


@dataclasses.dataclass(frozen=True)
class Draft:
    """An example under construction.

    Attributes:
        inputs, outputs: the texts so far, which alternate, an input first.
        repeats: share of its lists and numbers in which stretches of items stand more than once.
        length: of its lists.
        pair: the longest that lists may be which stand in twos.
    """

    inputs: list[str]
    outputs: list[str]
    repeats: float
    length: int
    pair: int

    def ask(self, given: str, wanted: str):
        """Goes on with an input and the output that is wanted after it."""
        self.inputs.append(given)
        self.outputs.append(wanted)


def of_pair(rng: random.Random, draft: Draft) -> int:
    """Of two lists that stand together: anything up to the example's length, for most is decided by the first few items."""
    return rng.randint(1, min(draft.length, draft.pair))


def noise(rng: random.Random) -> str:
    """Now and then a labelled line that has nothing to do with the question after it."""
    return "" if rng.random() < 0.4 else f"{rng.choice(CUES)}: {rng.randint(0, 9)}\n"


def lines(values: dict[str, str]) -> str:
    """A line for each labelled value."""
    return "".join(f"{name}: {value}\n" for name, value in values.items())
