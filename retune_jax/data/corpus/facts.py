"""Facts about small numbers, as one knows them by heart: sums of digits with their carry, xor, the larger of two.

    >>> SUM.forms[0].format(8, 5), SUM.value(8, 5), SUM.value(8, 5, names=("tree", "row"))
    ('8 plus 5', 'carry 1, digit 3', 'tree 1, row 3')
    >>> XOR.value(1, 1), MAX.value(-3, 12), SAME.value(4, 4)
    ('0', '12', 'yes')

The corpus asks for them. No fact has more than three numbers, and none a number of more than two digits.
"""

import dataclasses
import random
from collections.abc import Callable

YES_NO = {True: "yes", False: "no"}
CARRY_AND_DIGIT = ("carry", "digit")


@dataclasses.dataclass(frozen=True)
class Fact:
    """Something to know about small numbers: its name, the ranges they come from, how it is asked, and the answer."""

    name: str
    ranges: tuple[tuple[int, int], ...]
    forms: tuple[str, ...]
    value: Callable[..., str]
    named: bool = False  # whether the answer has names, which a question may choose

    def draw(self, rng: random.Random) -> list[int]:
        """Its numbers: small ones more often than not, and equal ones more often than by chance."""
        numbers = [rng.randint(low, high if rng.random() < 0.4 else min(high, 9)) for low, high in self.ranges]
        if rng.random() < 0.2 and self.ranges[0] == self.ranges[1]:
            numbers[1] = numbers[0]
        return numbers


def _carry(*numbers: int, names: tuple[str, str] = CARRY_AND_DIGIT) -> str:
    return f"{names[0]} {sum(numbers) // 10}, {names[1]} {sum(numbers) % 10}"


BIT, DIGIT, SIGNED, LARGE = (0, 1), (0, 9), (-9, 9), (-9, 99)
XOR = Fact(
    "Xor",
    (BIT, BIT),
    ("{} xor {}", "xor of {} and {}", "{} or {} but not both", "exclusive or of {} with {}"),
    lambda a, b: str(a ^ b),
)
SUM = Fact("Plus", (DIGIT, DIGIT), ("{} plus {}", "add {} and {}", "{} and {} make"), _carry, named=True)
SUM_WITH_CARRY = Fact(
    "Plus", (DIGIT, DIGIT, BIT), ("{} plus {} with carry {}", "add {} and {} and carry {}"), _carry, named=True
)
MAX = Fact("Max", (LARGE, LARGE), ("max of {} and {}", "larger of {} and {}"), lambda a, b: str(max(a, b)))
MIN = Fact("Min", (SIGNED, SIGNED), ("smaller of {} and {}",), lambda a, b: str(min(a, b)))
MOVE = Fact("Total", (LARGE, SIGNED), ("{} moved by {}", "{} added to {}"), lambda a, b: str(a + b))
SAME = Fact("Same", (DIGIT, DIGIT), ("is {} equal to {}", "{} same as {}"), lambda a, b: YES_NO[a == b])
FACTS = (XOR, XOR, XOR, SUM, SUM, SUM_WITH_CARRY, SUM_WITH_CARRY, SUM_WITH_CARRY, MAX, MIN, MOVE, SAME)


def facts_for(items: list[str]) -> tuple[Fact, ...]:
    """The facts that can be asked of a list's items."""
    if set(items) <= {"0", "1"}:
        return XOR, XOR, XOR, MAX
    return (SUM, SAME, MAX, MIN, MOVE) if all(len(item) == 1 for item in items) else (MAX, MOVE)
