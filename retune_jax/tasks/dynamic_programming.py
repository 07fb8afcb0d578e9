"""Choosing items of a list, no two of them neighbours, for the largest sum, by dynamic programming.

The answer has 1 for a chosen item and 2 for one left out, and is the lexicographically smallest of the best choices.
Three kinds of context solve it. The top one calls twice: for the *sums* (the best sum of every end of the list) and
then for the *indices*, which are read off the sums from the left; both of these call themselves on shorter lists:

    >>> task = DynamicProgramming()
    >>> top = task.written(task.parse("[3, 2]"), "retune")
    >>> print(top.text)
     Compute the maximum sum of nonadjacent subsequences of [3, 2]
    Solution: Call: Create dp array [3, 2]
    Return: [3, 2]
    Answer: Call: Create chosen indices array: sum array [3, 2], item array [3, 2], can use item True
    Return: [1, 2]
    Answer: [1, 2]
    >>> for context in top.walk():
    ...     print(context.prompt, "->", context.value)
    Compute the maximum sum of nonadjacent subsequences of [3, 2] -> [1, 2]
    Create dp array [3, 2] -> [3, 2]
    Create dp array [2] -> [2]
    Create chosen indices array: sum array [3, 2], item array [3, 2], can use item True -> [1, 2]
    Create chosen indices array: sum array [2], item array [2], can use item False -> [2]

Wording, lengths, sampling and resampling are those of the paper's code (Pasewark/ReTuning, data_generation).
"""

import re
from dataclasses import dataclass
from itertools import product

from retune_jax.tasks._variants import Wording
from retune_jax.tasks.task import MOST_DIGITS, Answer, Call, ProblemError, Task, listed, thinning

TOP = "Compute the maximum sum of nonadjacent subsequences of "
SUMS = "Create dp array "
INDICES = "Create chosen indices array: "
FORM = "sum array {}, item array {}, can use item {}"
INDICES_FORM = re.compile(r"sum array (\[.*?\]), item array (\[.*?\]), can use item (True|False)")
SCRATCHPAD_QUESTION = "Question: Let's solve input = {}."
BASELINE_QUESTION = (
    "Given a sequence of integers, find a subsequence with the highest sum, such that no two numbers in the "
    'subsequence are adjacent in the original sequence.\n\nOutput a list with "1" for chosen numbers and "2" for '
    "unchosen ones. If multiple solutions exist, select the lexicographically smallest. Input = {}."
)
QUESTIONS = {"retune": TOP + "{}", "scratchpad": SCRATCHPAD_QUESTION, "baseline": BASELINE_QUESTION}

MOST_DIGITS_OF_SUMS = 2 * MOST_DIGITS

LARGEST = 5
VALUES = range(-LARGEST, LARGEST + 1)
SHORTEST, LONGEST = 2, 5
REPEATS = {"retune": {1: 250, 2: 30, 3: 4}, "other": {2: 100, 3: 10, 4: 3}}


@dataclass(frozen=True, slots=True)
class Choose:
    """The whole problem: which of the items to choose."""

    items: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Sums:
    """The best sum of every end of the list."""

    items: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Indices:
    """The choice, given the sums; `free` says whether the first item may be chosen."""

    sums: tuple[int, ...]
    items: tuple[int, ...]
    free: bool


class DynamicProgramming(Task):
    """A problem is one of the three kinds of context; its length is the number of items."""

    name = "dynamic_programming"
    trained_lengths = (SHORTEST, LONGEST)
    evaluated_lengths = (2, 24)
    wordings = (
        Wording(
            "choose",
            {
                TOP + "{}": "Choose items of {} for the largest sum, no two of them adjacent",
                SUMS + "{}": "Find the best sum of every end of {}",
                INDICES + FORM: "Choose for sums {} of items {}, first one free: {}",
            },
        ),
        Wording(
            "terse",
            {
                TOP + "{}": "Nonadjacent: {}",
                SUMS + "{}": "Sums: {}",
                INDICES + FORM: "Indices: sums {}, items {}, first {}",
            },
        ),
        Wording(
            "question",
            {
                TOP + "{}": "Which numbers of {} have the highest sum, if none are adjacent?",
                SUMS + "{}": "What are the highest sums of {}?",
                INDICES + FORM: "Which are chosen if the sums are {} and the items {}, where the first can be chosen: {}?",
            },
        ),
    )

    def parse(self, text):
        """Read the prompt of any of the contexts, the question of any method, or a list alone."""
        text = text.strip()
        if text.startswith(SUMS):
            return Sums(listed(text.removeprefix(SUMS)))
        if text.startswith(INDICES):
            return self._indices(text.removeprefix(INDICES))
        for question in QUESTIONS.values():
            before, after = question.split("{}")
            if text.startswith(before):
                text = text.removeprefix(before).removesuffix(after)
        return Choose(listed(text))

    @staticmethod
    def _indices(text):
        found = INDICES_FORM.fullmatch(text)
        if not found:
            raise ProblemError("chosen indices need: sum array [3, 2], item array [3, 2], can use item True")
        sums, items = listed(found[1], MOST_DIGITS_OF_SUMS), listed(found[2])
        if len(sums) != len(items):
            raise ProblemError(f"chosen indices need as many sums as items, not {len(sums)} and {len(items)}")
        return Indices(sums, items, found[3] == "True")

    def prompt(self, problem):
        """Write the prompt of the context."""
        match problem:
            case Choose(items):
                return f"{TOP}{list(items)}"
            case Sums(items):
                return f"{SUMS}{list(items)}"
            case Indices(sums, items, free):
                return f"{INDICES}sum array {list(sums)}, item array {list(items)}, can use item {free}"

    def solve(self, problem):
        """Call for the sums, then for the indices; each of these calls itself on the list without its first item."""
        match problem:
            case Choose(items):
                sums = yield Call(self.prompt(Sums(items)))
                indices = yield Call(self.prompt(Indices(listed(sums, MOST_DIGITS_OF_SUMS), items, True)))
                return Answer(indices)
            case Sums((item,)):
                return Answer([max(item, 0)], "Return [0] if negative else element.")
            case Sums(items):
                rest = yield Call(self.prompt(Sums(items[1:])), "Call with array minus first element.")
                rest = listed(rest, MOST_DIGITS_OF_SUMS)
                best = max(rest[0], items[0] + sum(rest[1:2]))
                return Answer([best, *rest], "Append max(return[0], array[0] + return[1]) to return.")
            case Indices(sums, items, free):
                chosen = free and sums[0] == items[0] + sum(sums[2:3])
                base = "If there is only 1 item, return 1 if we should use it else 2."
                if len(items) == 1:
                    return Answer([1 if chosen else 2], base)
                step = "If we should use the first item to get the sum, call False else True."
                rest = yield Call(self.prompt(Indices(sums[1:], items[1:], not chosen)), f"{base} {step}")
                return Answer([1 if chosen else 2, *listed(rest)], "Append 1 if False else 2.")

    def length(self, problem):
        """Count the items."""
        return len(problem.items)

    def sample(self, rng, length):
        """Draw uniform items."""
        return Choose(tuple(rng.integers(-LARGEST, LARGEST + 1, length).tolist()))

    def answer(self, problem):
        """Return the list that the context is asked for, worked out in loops."""
        match problem:
            case Choose(items):
                return str(chosen_indices(best_sums(items), items, True))
            case Sums(items):
                return str(best_sums(items))
            case Indices(sums, items, free):
                return str(chosen_indices(sums, items, free))

    def opening(self, method):
        """End the prompt; a scratchpad follows its question without a word between."""
        return "" if method == "scratchpad" else super().opening(method)

    def question(self, problem, method):
        """Write the question, which has wording of its own in every method."""
        if method in ("scratchpad", "baseline") and isinstance(problem, Choose):
            return QUESTIONS[method].format(list(problem.items))
        return self.prompt(problem)

    def scratchpad(self, problem):
        """Write both loops out, one step a line."""
        items, sums = problem.items, best_sums(problem.items)
        free, taken = True, chosen_indices(sums, items, True)
        last = len(items) - 1
        lines = []
        for i in range(last, -1, -1):
            # The last two steps have no sum two items on.
            if i == last:
                names, numbers = f"input[{i}]", f"{items[i]}"
            elif i == last - 1:
                names, numbers = f"input[{i}], input[{i + 1}]", f"{items[i]}, {items[i + 1]}"
            else:
                names = f"dp[{i + 1}], input[{i}] + dp[{i + 2}]"
                numbers = f"{sums[i + 1]}, {items[i]} + {sums[i + 2]}"
            lines.append(f"dp[{i}] = max({names}, 0) = max({numbers}, 0) = {sums[i]}")
        lines += [
            "",
            "Finally, we reconstruct the lexicographically smallest subsequence that fulfills the task objective by "
            'selecting numbers as follows. We store the result on a list named "output".',
            "",
            "Let can_use_next_item = True.",
        ]
        for i, choice in enumerate(taken):
            name, number = (f"input[{i}]", f"{items[i]}")
            if i < last - 1:
                name, number = f"{name} + dp[{i + 2}]", f"{number} + {sums[i + 2]}"
            free = choice == 2
            same, joined = ("!=", "or can_use_next_item == False") if free else ("==", "and can_use_next_item == True")
            line = f"Since dp[{i}] {same} {name} ({sums[i]} {same} {number}) {joined}, we store output[{i}] = {choice}."
            lines.append(line if i == last else f"{line} We update can_use_next_item = {free}.")
        lines += ["", f"Reconstructing all together, output={taken}."]
        return "Scratchpad: " + "\n".join(lines)

    def final(self, method, segment_text):
        """Read the list; of a scratchpad the one after its last `output=`."""
        if method != "scratchpad":
            return super().final(method, segment_text)
        return segment_text.rpartition("output=")[2].strip().removesuffix(".") if "output=" in segment_text else ""

    def recursion_limit(self, length):
        """Allow 35 calls (the paper's limit), more where the list is too long for it."""
        return max(35, length + 1)

    def training_problems(self, method, rng, scale):
        """Yield every list of 2 to 5 items; for a scaled Re-Tuning set that share of those of each length."""
        for length in range(SHORTEST, LONGEST + 1):
            if method != "retune" or scale == 1:
                # Without traces `copies` does the scaling: fewer repeats come before fewer lists.
                yield from map(Choose, product(VALUES, repeat=length))
                continue
            number = max(1, round(scale * len(VALUES) ** length))
            for code in rng.choice(len(VALUES) ** length, number, replace=False).tolist():
                yield Choose(tuple(code // len(VALUES) ** i % len(VALUES) - LARGEST for i in range(length)))

    def copies(self, problem, method, scale):
        """Apply the paper's rule: many repeats of the few short lists, and most of the longest dropped."""
        length = len(problem.items)
        if method != "retune":
            return 1.0, REPEATS["other"].get(length, 1) * scale
        longest_only = [] if isinstance(problem, Choose) else range(max(length, SHORTEST), LONGEST + 1)
        sources = sum(len(VALUES) ** (n - length) for n in longest_only) or 1
        share = 0.15 if length == LONGEST else 1.0
        return share, REPEATS["retune"].get(length, 1) * thinning(scale, sources, 1.0)


def best_sums(items):
    """Return for every i the largest sum of items[i:] without neighbours; of no items it is 0."""
    sums = [0, 0]
    for item in reversed(items):
        sums.insert(0, max(sums[0], item + sums[1]))
    return sums[:-2]


def chosen_indices(sums, items, free):
    """Return 1 for every item that is chosen to reach the sums, as early as possible, and 2 for the others."""
    sums = [*sums, 0, 0]
    choices = []
    for i, item in enumerate(items):
        chosen = free and sums[i] == item + sums[i + 2]
        choices.append(1 if chosen else 2)
        free = not chosen
    return choices
