"""How deep are brackets nested? A task of one's own, and how to train it, in one file.

The model drops the first bracket and asks itself about the rest. An opening bracket lies one deeper than what comes back, a
closing one takes a level away:

    depth of )  is 0        depth of ( and the rest is  depth of the rest + 1
                            depth of ) and the rest is  depth of the rest - 1, but at least 0
"""

from retune_jax.config import recipe
from retune_jax.tasks import Answer, Call, ProblemError, Task


class Brackets(Task):
    """A problem is a string of brackets; its length is their number."""

    name = "brackets"
    trained_lengths = (1, 10)
    evaluated_lengths = (1, 20)
    problems_per_length = 300

    def parse(self, text):
        """Read a question, or the brackets alone."""
        brackets = text.strip().removeprefix("How deep is ").removesuffix("?")
        if not brackets or set(brackets) - set("()"):
            raise ProblemError(f"{text[:40]!r} is not made of brackets; a problem is written like (()())")
        return brackets

    def prompt(self, brackets):
        """Write the question."""
        return f"How deep is {brackets}?"

    def solve(self, brackets):
        """Drop the first bracket, call, count it in."""
        if len(brackets) == 1:
            return Answer(1 if brackets == "(" else 0)
        rest = yield Call(self.prompt(brackets[1:]))
        return Answer(int(rest) + 1 if brackets[0] == "(" else max(0, int(rest) - 1))

    def length(self, brackets):
        """Count the brackets."""
        return len(brackets)

    def sample(self, rng, length):
        """Draw any brackets: the rest of a well-formed string need not be well-formed, so neither need the problems."""
        return "".join("()"[bit] for bit in rng.integers(0, 2, length))

    def answer(self, brackets):
        """The largest surplus of opening brackets, counted from the left."""
        surplus = [0]
        for bracket in brackets:
            surplus.append(surplus[-1] + (1 if bracket == "(" else -1))
        return str(max(surplus))


def get_config(arguments: str = ""):
    """The run: `--config=brackets.py`, or `--config=brackets.py:method=scratchpad`."""
    config = recipe(arguments, task="brackets:Brackets", small=1.0)
    config.data.context_length = 64
    config.train.update({"steps": 150, "rows": 8, "learning_rate": 3e-3})
    config.decode.update({"window": 128, "stack_tokens": 2048})
    config.eval.update({"lengths": "1:20", "problems_per_length": 10})
    return config
