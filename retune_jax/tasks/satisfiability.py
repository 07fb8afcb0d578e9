"""Satisfiability (SAT): can a formula in clauses be made true? Search by splitting on a variable.

A clause is a list of literals, of which one at least has to hold: 2 stands for "variable 2 is true", -2 for "it is false". The
model makes the first literal true and calls itself on what is left of the formula: clauses with that literal are gone, and its
opposite is struck out of the others. Only when that fails does it try the opposite, by a second call:

    >>> task = Satisfiability()
    >>> top = task.written(task.parse("[1, 2] [-1, 2] [-1, -2]"), "retune")
    >>> print(top.text)
     Satisfy [1, 2] [-1, 2] [-1, -2]
    Solution: Set 1. Call: Satisfy [2] [-2]
    Return: no
    Answer: Set -1. Call: Satisfy [2]
    Return: yes
    Answer: yes
    >>> [(context.prompt, context.value) for context in top.walk()][1:4]
    [('Satisfy [2] [-2]', 'no'), ('Satisfy []', 'no'), ('Satisfy []', 'no')]

An empty clause, [], cannot hold; a formula without clauses does. So the recursion is a tree whose shape the answers decide, as
deep as there are variables. Guessing is right half of the time: half of the drawn formulas are satisfiable.

SAT is also what Recursive Models (arXiv 2603.02112) and PENCIL (arXiv 2503.14337) are measured on. Recursive Models isolates
contexts as Re-Tuning does, and fine-tunes a 3B model on them. PENCIL does not isolate: all is one context, from which a
reduction rule erases what was thought between a call and its return, so that a callee reads on behind its callers. Here the
tiny model is tuned on formulas of 3 to 6 variables and asked for up to 10, and a context holds its formula and nothing else.
"""

import re

from retune_jax.errors import UserError
from retune_jax.tasks._variants import Wording
from retune_jax.tasks.task import Answer, Call, ProblemError, Task, shown, trace

CLAUSE = re.compile(r"\[\s*(?:-?[1-9][0-9]{0,8}(?:\s*,\s*-?[1-9][0-9]{0,8})*)?\s*\]")
MOST_VARIABLES = 20  # the answer is checked by a truth table
CLAUSES_A_VARIABLE = (1.4, 2.6)
TOP, NOTHING = "Satisfy {}", "nothing"
YES, NO = "yes", "no"


class Satisfiability(Task):
    """A problem is a tuple of clauses, each a tuple of literals; its length is the number of variables in it."""

    name = "satisfiability"
    trained_lengths = (3, 6)
    evaluated_lengths = (3, 10)
    wordings = (
        Wording("question", {TOP: "Can all of {} be true?"}),
        Wording("bare", {TOP: "{} satisfiable"}),
        Wording("clauses", {TOP: "Clauses: {}"}),
    )

    def parse(self, text):
        """Read `Satisfy [1, -2] [2]`, or the clauses alone."""
        text = text.strip().removeprefix("Satisfy ").strip()
        if text == NOTHING:
            return ()
        found = CLAUSE.findall(text)
        if not found or "".join(text.split()) != "".join("".join(found).split()):
            what = f"{shown(text)} is not a row of clauses" if text else "the formula is empty"
            raise ProblemError(f"{what}; a formula is written like [1, -2] [2, 3]")
        clauses = tuple(tuple(map(int, filter(None, clause.strip("[]\n\t ").split(",")))) for clause in found)
        if (number := self.length(clauses)) > MOST_VARIABLES:
            raise ProblemError(f"the formula has {number} variables; at most {MOST_VARIABLES} can be checked")
        return clauses

    def prompt(self, clauses):
        """Write the formula."""
        return TOP.format(written(clauses))

    def solve(self, clauses):
        """Try the first literal; where that fails, its opposite."""
        if not clauses or () in clauses:
            return Answer(NO if clauses else YES)
        literal = clauses[0][0]
        found = yield Call(self.prompt(simplified(clauses, literal)), f"Set {literal}.")
        if found != YES:
            found = yield Call(self.prompt(simplified(clauses, -literal)), f"Set {-literal}.")
        return Answer(found)

    def length(self, clauses):
        """Count the variables."""
        return len({abs(literal) for clause in clauses for literal in clause})

    def sample(self, rng, length):
        """Draw clauses of two or three literals, until the formula is what a fair coin wants: satisfiable or not."""
        if length > MOST_VARIABLES:
            raise UserError(f"a formula of {length} variables cannot be drawn: at most {MOST_VARIABLES} can be checked")
        wanted = str(rng.choice((YES, NO)))
        while True:
            number = max(length, round(length * rng.uniform(*CLAUSES_A_VARIABLE)))
            clauses = []
            for size in rng.choice((2, 2, 3), number).tolist():
                variables = 1 + rng.choice(length, min(size, length), replace=False)
                clauses.append(tuple((variables * rng.choice((-1, 1), len(variables))).tolist()))
            if self.length(clauses) == length and self.answer(clauses) == wanted:
                return tuple(clauses)

    def answer(self, clauses):
        """Return "yes" or "no" by a truth table: bit i of a mask says whether assignment i makes the formula true."""
        variables = sorted({abs(literal) for clause in clauses for literal in clause})
        everything = (1 << (1 << len(variables))) - 1
        true = {}
        for place, variable in enumerate(variables):
            period = 1 << (place + 1)  # half of which is false, and half true
            block = ((1 << period // 2) - 1) << period // 2
            true[variable] = everything // ((1 << period) - 1) * block
            true[-variable] = everything ^ true[variable]
        holds = everything
        for clause in clauses:
            some = 0
            for literal in clause:
                some |= true[literal]
            holds &= some
        return YES if holds else NO

    def scratchpad(self, clauses):
        """Write the search out: every formula that is met, in order, and the answer behind them."""
        met = [written(self.parse(context.prompt)) for context in trace(self, clauses).walk()]
        return "\n".join([*met, self.answer(clauses)])

    def recursion_limit(self, length):
        """Allow a call for every variable, and some more."""
        return 2 * length + 2


def written(clauses):
    """A formula as text."""
    return " ".join(str(list(clause)) for clause in clauses) or NOTHING


def simplified(clauses, literal):
    """What is left of a formula where the literal is true."""
    return tuple(tuple(other for other in clause if other != -literal) for clause in clauses if literal not in clause)
