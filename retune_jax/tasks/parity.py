"""Parity: are the ones in a list of bits even (0) or odd (1) in number?

The model drops the first bit, calls itself on the rest, and adds the bit to what comes back:

    >>> task = Parity()
    >>> print(task.written(task.parse("[1, 0]"), "retune").text)
     What is the parity of [1, 0]?
    Solution: Call: What is the parity of [0]?
    Return: 0
    Answer: 1
    >>> print(task.written(task.parse("[1, 0]"), "scratchpad").text)
     What is the parity of [1, 0]?
    Solution: Compute one element at a time. 1 1

Wording, lengths, sampling and resampling are those of the paper's code (Pasewark/ReTuning, data_generation).
"""

import re
from itertools import accumulate
from operator import xor

from retune_jax.tasks._variants import Wording
from retune_jax.tasks.task import Answer, Call, ProblemError, Task, drawn, listed, solved, thinning

FOUR_TIMES = dict.fromkeys(range(10, 15), 4)
REPEATS = {
    "retune": {1: 900, 2: 240, 3: 100, 4: 50, 5: 24, 6: 12, 7: 6, 8: 4, 11: 4},
    "scratchpad": {1: 60, 2: 60, 3: 60, 4: 20, **dict.fromkeys(range(5, 10), 10), **FOUR_TIMES},
    "baseline": {1: 300, 2: 500, 3: 300, 4: 200, 5: 120, 6: 50, 7: 30, 8: 10, 9: 10, **FOUR_TIMES},
}
TOP = "What is the parity of {}?"
LONGEST = 21
TRACED = 250_000  # lists of the longest kind, from which all contexts of Re-Tuning come


class Parity(Task):
    """A problem is a tuple of bits; its length is their number."""

    name = "parity"
    trained_lengths = (1, LONGEST)
    evaluated_lengths = (1, 40)  # the paper's figure ends at 29
    wordings = (
        Wording("odd", {TOP: "Is the sum of {} odd?"}),
        Wording("bare", {TOP: "{} parity"}),
        Wording("sum", {TOP: "Sum of {} modulo two"}),
    )

    def parse(self, text):
        """Read `What is the parity of [0, 1]?`, or the list alone."""
        bits = listed(text.strip().removeprefix("What is the parity of ").removesuffix("?"))
        wrong = set(bits) - {0, 1}
        if wrong:
            raise ProblemError(f"parity is of bits, and {min(wrong)} is not one; a problem is written like [1, 0, 1]")
        return bits

    def prompt(self, bits):
        """Write the question."""
        return TOP.format(list(bits))

    def solve(self, bits):
        """Drop the first bit, call, add it to what comes back."""
        if len(bits) == 1:
            return Answer(bits[0])
        rest = yield Call(self.prompt(bits[1:]))
        return Answer((bits[0] + int(rest)) % 2)

    def length(self, bits):
        """Count the bits."""
        return len(bits)

    def sample(self, rng, length):
        """Draw uniform bits."""
        return tuple(rng.integers(0, 2, length).tolist())

    def answer(self, bits):
        """Return "0" or "1"."""
        return str(sum(bits) % 2)

    def scratchpad(self, bits):
        """Write the parity of every beginning of the list."""
        return " ".join(["Compute one element at a time.", *map(str, accumulate(bits, xor))])

    def final(self, method, segment_text):
        """Read the value; of a scratchpad the last number."""
        if method != "scratchpad":
            return super().final(method, segment_text)
        numbers = re.findall("[0-9]+", segment_text)
        return numbers[-1] if numbers else ""

    def training_problems(self, method, rng, scale):
        """Yield distinct lists: for Re-Tuning of 21 bits only, as their traces hold all shorter ones."""
        if method == "retune":
            wanted = {LONGEST: max(1, round(TRACED * scale))}
        else:
            # Here `copies` does the scaling: fewer repeats come before fewer lists.
            wanted = {n: min(2**n, 15_000, max(300, 2**n // 5)) for n in range(1, LONGEST + 1)}
        for length, number in wanted.items():
            for code in rng.choice(2**length, number, replace=False).tolist():
                yield tuple(map(int, f"{code:0{length}b}"))

    def traced(self, rng, scale):
        """Yield what any task would, but choose before solving, as most of the many long lists are dropped."""
        lists = list(self.training_problems("retune", rng, scale))
        known = {}
        for length in range(1, LONGEST + 1):
            share, repeats = self.copies(lists[0][-length:], "retune", scale)
            for bits in {bits[-length:]: None for bits in lists}:
                copies = drawn(rng, share, repeats)
                if copies:
                    # Never known before: the lists come shortest first, and those of one length are distinct.
                    *_, (_, context) = solved(self, bits, known)
                    yield context, copies

    def copies(self, bits, method, scale):
        """Apply the paper's rule: many repeats of the few short lists, few of the many long ones."""
        length = len(bits)
        repeats = REPEATS[method].get(length, 1)
        if method != "retune":
            return 1.0, repeats * scale
        share = 1.0 if length <= 10 else 0.1
        if length > 16:
            share *= 1 - ((length - 16) / 10 + 0.25)
        return share, repeats * thinning(scale, 2 ** (LONGEST - length), TRACED / 2**LONGEST)
