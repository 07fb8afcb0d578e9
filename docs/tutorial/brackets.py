"""How deep are brackets nested? A task of one's own and its recipe, in one file.

The model drops the first bracket and asks itself about the rest. An opening bracket lies one deeper than what comes back; a
closing one takes a level away, down to 0. Brackets are written as a list, 1 for an opening and 0 for a closing one, because
lists of numbers are what the tiny base model can copy; people may write (()()) all the same.
"""

from retune_jax.config import recipe
from retune_jax.tasks import Answer, Call, ProblemError, Task


class Brackets(Task):
    """A problem is a string of brackets; its length is their number."""

    name = "brackets"
    trained_lengths = (1, 12)
    evaluated_lengths = (1, 24)
    problems_per_length = 300

    def parse(self, text):
        """Read `How deep is [1, 0]?`, or `()`."""
        written = text.strip().removeprefix("How deep is ").removesuffix("?")
        brackets = written.replace("[", "").replace("]", "").replace(", ", "").replace("1", "(").replace("0", ")")
        if not brackets or set(brackets) - set("()"):
            raise ProblemError(f"{text[:40]!r} is not made of brackets; a problem is written like (()())")
        return brackets

    def prompt(self, brackets):
        """Write the question."""
        return f"How deep is {[int(bracket == '(') for bracket in brackets]}?"

    def solve(self, brackets):
        """Drop the first bracket, call, count it in."""
        if len(brackets) == 1:
            return Answer(int(brackets == "("))
        rest = yield Call(self.prompt(brackets[1:]))
        return Answer(int(rest) + 1 if brackets[0] == "(" else max(0, int(rest) - 1))

    def length(self, brackets):
        """Count the brackets."""
        return len(brackets)

    def sample(self, rng, length):
        """Draw any brackets: what is left of a well-formed string need not be well-formed."""
        return "".join("()"[bit] for bit in rng.integers(0, 2, length))

    def answer(self, brackets):
        """The largest surplus of opening brackets, counted from the left."""
        surplus = deepest = 0
        for bracket in brackets:
            surplus += 1 if bracket == "(" else -1
            deepest = max(deepest, surplus)
        return str(deepest)

    def copies(self, brackets, method, scale):
        """There are few short problems, and every long one ends in them: repeat them, so that each length is seen as often."""
        return 1.0, max(1.0, 300 / 2 ** len(brackets))


def get_config(arguments: str = ""):
    """The run: `--config=brackets.py`, or `--config=brackets.py:method=scratchpad`."""
    config = recipe(arguments, task="brackets:Brackets", small=1.0)
    config.data.context_length = 96  # tokens of the longest context that is trained on
    config.train.update({"steps": 70, "rows": 8})
    config.eval.update({"lengths": "4,8,12,16,20,24", "problems_per_length": 20})
    return config
