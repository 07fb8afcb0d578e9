"""Merge sort: a list is cut in half, each half sorted by a call, and the two sorted lists merged.

A context calls twice, so that the contexts of a problem are a tree: twice as many on each level, but only as many levels as
the list can be halved:

    >>> task = MergeSort()
    >>> top = task.written(task.parse("[31, 7, 50]"), "retune")
    >>> print(top.text)
     Sort [31, 7, 50]
    Solution: Call: Sort [31]
    Return: [31]
    Answer: Call: Sort [7, 50]
    Return: [7, 50]
    Answer: [7, 31, 50]
    >>> [context.prompt for context in top.walk()]
    ['Sort [31, 7, 50]', 'Sort [31]', 'Sort [7, 50]', 'Sort [7]', 'Sort [50]']

The paper has no such task; training takes distinct lists of each trained length, each distinct context of theirs, and
repeats of the few short ones.
"""

from heapq import merge

from retune_jax.tasks._variants import Wording
from retune_jax.tasks.task import Answer, Call, Task, listed

LARGEST = 99
REPEATS = {1: 10, 2: 3}
TOP = "Sort {}"


class MergeSort(Task):
    """A problem is a tuple of whole numbers; its length is how many there are."""

    name = "merge_sort"
    trained_lengths = (1, 8)
    evaluated_lengths = (1, 24)
    wordings = (
        Wording("question", {TOP: "What is {} from smallest to largest?"}),
        Wording("bare", {TOP: "{} sorted"}),
        Wording("order", {TOP: "Put in order: {}"}),
    )

    def parse(self, text):
        """Read `Sort [3, 1]`, or the list alone."""
        return listed(text.strip().removeprefix("Sort "))

    def prompt(self, items):
        """Write the request."""
        return TOP.format(list(items))

    def solve(self, items):
        """Sort either half by a call, and merge."""
        if len(items) == 1:
            return Answer(list(items))
        middle = len(items) // 2
        left = yield Call(self.prompt(items[:middle]))
        right = yield Call(self.prompt(items[middle:]))
        return Answer(list(merge(listed(left), listed(right))))

    def length(self, items):
        """Count the items."""
        return len(items)

    def sample(self, rng, length):
        """Draw uniform numbers of 0 to 99."""
        return tuple(rng.integers(0, LARGEST + 1, length).tolist())

    def answer(self, items):
        """Return the sorted list."""
        return str(sorted(items))

    def copies(self, items, method, scale):
        """Repeat the short lists: there are but 100 of one item."""
        return 1.0, REPEATS.get(len(items), 1)
