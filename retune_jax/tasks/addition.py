"""Addition of two whole numbers, digit by digit.

The model adds the numbers without their first digits by calling itself, then the first digits with what was carried.
The shorter number is filled with zeros, and a value keeps the zeros that it begins with:

    >>> task = Addition()
    >>> print(task.written(task.parse("48 + 7"), "retune").text)
     48 + 07
    Solution: Call: 8 + 7
    Return: Carry 1, Output 5
    Answer: Carry 0, Output 55
    >>> print(task.written(task.parse("48 + 7"), "scratchpad").text)
     48 + 07
    Solution: Carry 1, Output 5
    Carry 0, Output 55

Wording, lengths, sampling and resampling are those of the paper's code (Pasewark/ReTuning, data_generation).
"""

import re

from retune_jax.tasks._variants import Wording
from retune_jax.tasks.task import Answer, Call, ProblemError, Task, drawn, shown, thinning

VALUE = re.compile(r"Carry ([01]), Output ([0-9]+)")
MOST_DIGITS = 4000  # Python's own limit on turning text into numbers is 4300

TOP = "{} + {}"
LONGEST = 15
STARTS = (1, 3, 6, 9, 12)  # every cell of digit counts is drawn once for each start that it reaches
CELLS = [(i, j) for start in STARTS for i in range(start, LONGEST + 1) for j in range(i, LONGEST + 1)]
PAIRS_PER_CELL = 1000


class Addition(Task):
    """A problem is two strings of digits, equally long; its length is that of either."""

    name = "addition"
    trained_lengths = (1, LONGEST)
    evaluated_lengths = (2, 60)
    wordings = (
        Wording("words", {TOP: "{} plus {}"}),
        Wording("request", {TOP: "Add {} and {}."}),
        Wording("question", {TOP: "What is {} plus {}?"}),
    )

    def parse(self, text):
        """Read `1234 + 56`."""
        numbers = [part.strip() for part in text.split("+")]
        if len(numbers) != 2:
            signs = f"{len(numbers) - 1} plus signs" if len(numbers) > 1 else "no plus sign"
            what = f"{shown(text)} has {signs}" if text.strip() else "the problem is empty"
            raise ProblemError(f"{what}; a problem of addition is written like 1234 + 5678")
        for number in numbers:
            if not (number.isdigit() and number.isascii()):
                what = f"{shown(number)} is not made of the digits 0-9" if number else "a number is missing"
                raise ProblemError(f"{what}; a problem of addition is written like 1234 + 5678")
        length = max(map(len, numbers))
        if length > MOST_DIGITS:
            raise ProblemError(f"a number has {length} digits; at most {MOST_DIGITS} can be added")
        return numbers[0].zfill(length), numbers[1].zfill(length)

    def prompt(self, problem):
        """Write the sum with both numbers equally long."""
        return TOP.format(*problem)

    def solve(self, problem):
        """Add all but the first digits by a call, then the first digits and the carry."""
        first, second = problem
        if len(first) == 1:
            return self._value(int(first) + int(second), "")
        rest = yield Call(self.prompt((first[1:], second[1:])))
        carry, digits = VALUE.fullmatch(rest).groups()
        return self._value(int(first[0]) + int(second[0]) + int(carry), digits)

    @staticmethod
    def _value(total, digits):
        return Answer(f"Carry {total // 10}, Output {total % 10}{digits}")

    def length(self, problem):
        """Count the digits of the longer number."""
        return len(problem[0])

    def sample(self, rng, length):
        """Draw two numbers of that many digits, neither beginning with 0."""
        return self._number(rng, length), self._number(rng, length)

    @staticmethod
    def _number(rng, length):
        return str(rng.integers(1, 10)) + "".join(map(str, rng.integers(0, 10, length - 1).tolist()))

    def answer(self, problem):
        """Return the sum, with zeros before it up to the problem's length."""
        return str(int(problem[0]) + int(problem[1])).zfill(len(problem[0]))

    def final(self, method, segment_text):
        """Read the number: a carried 1 stands before the output."""
        value = super().final(method, segment_text)
        if method == "baseline":
            return value
        found = VALUE.fullmatch(value)
        return found[1].replace("0", "") + found[2] if found else ""

    def training_problems(self, method, rng, scale):
        """Yield as many pairs for every cell of digit counts, in either order; they need not be distinct."""
        for i, j in CELLS:
            number = drawn(rng, 1.0, PAIRS_PER_CELL * scale)
            lows = rng.integers(10 ** (i - 1), 10**i, number).tolist()
            highs = rng.integers(10 ** (j - 1), 10**j, number).tolist()
            for low, high, swap in zip(lows, highs, (rng.random(number) < 0.5).tolist()):
                pair = str(low).zfill(j), str(high)
                yield pair[::-1] if swap else pair

    def copies(self, problem, method, scale):
        """Apply the paper's rule: many repeats of the few short sums; drop many where both numbers are equally long."""
        if method != "retune":
            return 1.0, 1.0
        # The paper's rule for unequal written lengths never applies, as the numbers are filled up with zeros.
        length = len(problem[0])
        repeats = {1: 1000, 2: 5}.get(length, 1)
        digits, other = (len(number.lstrip("0")) for number in problem)
        share = 1.0
        if digits == other and 3 <= digits <= 11:
            share = 0.15 if digits <= 7 else 0.35
        return share, repeats * thinning(scale, PAIRS_PER_CELL * len(CELLS), 0.01**length)
