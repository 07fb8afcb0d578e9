"""Multiplication of two whole numbers by the school's method; its contexts call addition's.

Three kinds of context solve it. A product of two long numbers calls for the product with all but the last digit of the second
number, for the product with that digit, and for the sum of both, which is a problem of *another task*, addition, and is
solved, trained and judged as one. A product with a single digit calls itself without the first number's first digit:

    >>> task = Multiplication()
    >>> top = task.written(task.parse("37 * 24"), "retune")
    >>> print(top.text)
     37 * 24
    Solution: Call: 37 * 2
    Return: 074
    Answer: Call: 37 * 4
    Return: 148
    Answer: Call: 0740 + 0148
    Return: Carry 0, Output 0888
    Answer: 0888
    >>> print(top.segments[1].callee.text)
     37 * 4
    Solution: Call: 7 * 4
    Return: 28
    Answer: 148
    >>> print(top.segments[2].callee.text)
     0740 + 0148
    Solution: Call: 740 + 148
    Return: Carry 0, Output 888
    Answer: Carry 0, Output 0888

A product has as many digits as its factors together, zeros before it included. The paper has no such task.
"""

from retune_jax.tasks._variants import Wording
from retune_jax.tasks.addition import VALUE, Addition
from retune_jax.tasks.task import Answer, Call, ProblemError, Task, shown

ADDITION = Addition()
MOST_DIGITS = 2000  # Python's own limit on turning text into numbers is 4300 digits, here of the product
EXAMPLE = "a problem of multiplication is written like 12 * 345"
REPEATS = {1: 40, 2: 3}
TOP = "{} * {}"


class Multiplication(Task):
    """A problem is two strings of digits; its length is that of the longer. In its traces, problems of addition too."""

    name = "multiplication"
    trained_lengths = (1, 3)
    evaluated_lengths = (1, 9)
    uses = (ADDITION,)
    wordings = (
        Wording("words", {TOP: "{} times {}"}),
        Wording("request", {TOP: "Multiply {} and {}."}),
        Wording("question", {TOP: "What is {} times {}?"}),
    )

    def parse(self, text):
        """Read `12 * 345`."""
        numbers = [part.strip() for part in text.split("*")]
        if len(numbers) != 2:
            signs = f"{len(numbers) - 1} times signs" if len(numbers) > 1 else "no times sign"
            what = f"{shown(text)} has {signs}" if text.strip() else "the problem is empty"
            raise ProblemError(f"{what}; {EXAMPLE}")
        for number in numbers:
            if not (number.isdigit() and number.isascii()):
                what = f"{shown(number)} is not made of the digits 0-9" if number else "a number is missing"
                raise ProblemError(f"{what}; {EXAMPLE}")
        if (length := max(map(len, numbers))) > MOST_DIGITS:
            raise ProblemError(f"a number has {length} digits; at most {MOST_DIGITS} can be multiplied")
        return tuple(numbers)

    def prompt(self, problem):
        """Write the product."""
        return TOP.format(*problem)

    def solve(self, problem):
        """Multiply with one digit by carrying on; with more, by two products and addition's sum."""
        first, second = problem
        if len(second) > 1:
            upper = yield Call(self.prompt((first, second[:-1])))
            lower = yield Call(self.prompt((first, second[-1])))
            total = yield Call(ADDITION.prompt((upper + "0", lower.zfill(len(upper) + 1))))
            carry, digits = VALUE.fullmatch(total).groups()
            return Answer(carry.replace("0", "") + digits)
        rest = "0"
        if len(first) > 1:
            rest = yield Call(self.prompt((first[1:], second)))
        return Answer(f"{int(first[0]) * int(second) + int(rest[0]):02d}{rest[1:]}")

    def length(self, problem):
        """Count the digits of the longer number."""
        return max(map(len, problem))

    def sample(self, rng, length):
        """Draw two numbers of that many digits, neither beginning with 0."""
        return ADDITION.sample(rng, length)

    def answer(self, problem):
        """Return the product, with zeros before it up to the digits of both numbers together."""
        return str(int(problem[0]) * int(problem[1])).zfill(sum(map(len, problem)))

    def recursion_limit(self, length):
        """Allow a call for every digit of the second number, and then the digits of the sum, twice as many."""
        return 3 * length + 2

    def copies(self, problem, method, scale):
        """Repeat the short products and sums: the multiplication table has but 100 entries."""
        return 1.0, REPEATS.get(self.length(problem), 1)
