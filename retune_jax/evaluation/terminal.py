"""Solved problems on a terminal: transcripts in colour that grow as the model writes; plain text everywhere else."""

import contextlib
import time
from collections.abc import Sequence
from typing import TextIO

from rich.console import Console

from retune_jax.evaluation import transcript
from retune_jax.evaluation.solver import Solver

STYLES = {
    transcript.FRAME: "dim",
    transcript.GIVEN: "dim",
    transcript.MODEL: "bold cyan",
    transcript.WRONG: "bold red",
    transcript.NOTE: "yellow",
}
VERDICTS = {True: "[green]right[/]", False: "[red]wrong[/]", None: "[dim]unchecked[/]"}


class Terminal:
    """Where solved problems are shown."""

    def __init__(self, stream: TextIO):
        """Colours and growth where the stream is a terminal; elsewhere ⟦ ⟧ around what the model wrote."""
        self.console = Console(file=stream, highlight=False, soft_wrap=True)
        self.alive = self.console.is_terminal
        self._printed = 0  # characters of the transcript at hand

    def waiting(self, what: str) -> contextlib.AbstractContextManager:
        """Says on a terminal what takes its time."""
        return self.console.status(what) if self.alive else contextlib.nullcontext()

    def show(self, solver: Solver, texts: Sequence[str]):
        """Solves the problems and prints the transcript of each, in their order."""
        opening = solver.config.decode.opening
        begun = time.perf_counter()
        following = 0

        def watch(number, tree):
            if number == following:
                self._print(tree, opening)

        for record in solver.solve(texts, watch if self.alive else None):
            self._print(record["contexts"], opening)
            self._printed = 0
            following += 1
            self._close(record, time.perf_counter() - begun, last=following == len(texts))

    def _print(self, tree, opening: str):
        """Prints what the transcript has grown by."""
        at = 0
        for text, kind in transcript.pieces(tree, opening, brackets=not self.alive):
            fresh = text[max(0, self._printed - at) :]
            at += len(text)
            if fresh:
                self.console.print(fresh, style=STYLES[kind] if self.alive else None, end="", markup=False)
        self._printed = max(self._printed, at)

    def _close(self, record: dict, seconds: float, *, last: bool):
        """The line below a transcript."""
        contexts = len(record["contexts"])
        facts = [f"{contexts} context{'s' * (contexts > 1)}", f"depth {record['depth']}", f"{record['tokens']} tokens"]
        if last:
            facts.append(f"{seconds:.1f} s")
        self.console.print("= ", style="bold", end="")
        self.console.print(transcript.visible(record["value"]) or record["status"], style="bold", end="   ", markup=False)
        self.console.print(VERDICTS[record["correct"]], end="")
        if record["correct"] is False:
            self.console.print(f", the answer is {record['answer']}", end="", markup=False)
        self.console.print(f"   ({', '.join(facts)})\n", style="dim")
