r"""The text protocol of Re-Tuning: how a model that writes text calls itself.

A *context* is one fresh window. It opens with a prompt, then the model and the decoder take turns. Here is a whole
context, with ⟦ ⟧ around each *segment*: what the model generates in one go, up to its end-of-sequence token::

     What is the parity of [0, 1, 1]?
    Solution:⟦ Call: What is the parity of [1, 1]?\n⟧Return: 0
    Answer:⟦ 0⟧

* A segment that holds ``Call:`` and ends with a newline is a *call*: its prompt opens a context of its own, and the
  value of that context comes back as ``Return: 0\nAnswer:``, which the decoder pastes behind the call.
* Any other segment is an *answer*. It ends its context, and its value is what goes back to the caller.

Segments begin with a space and prompts are written as if one stood before them, so that a tokenizer cuts the text in
the same places whether the pieces are encoded one by one or all at once.

A solved problem is a tree of contexts, one child per call. The same classes hold the true tree that a task writes
(`retune_jax.tasks.trace`), from which training data is made, and the tree that a model produced:

    >>> callee = Context("What is the parity of [1]?", (Segment(" 1"),))
    >>> caller = Context(
    ...     "What is the parity of [0, 1]?",
    ...     (Segment(" Call: What is the parity of [1]?\n", callee), Segment(" 1")),
    ... )
    >>> print(caller.text)
     What is the parity of [0, 1]?
    Solution: Call: What is the parity of [1]?
    Return: 1
    Answer: 1
    >>> caller.value
    '1'
    >>> [context.prompt for context in caller.walk()]
    ['What is the parity of [0, 1]?', 'What is the parity of [1]?']
    >>> read(" Call: What is the parity of [1]?\n")
    CallRead(prompt='What is the parity of [1]?')

A tree may be hundreds of calls deep, so nothing here recurses.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

SOLUTION = "\nSolution:"
CALL = "Call:"
ANSWER = "Answer:"

STATUSES = (
    "ok",
    "bad_call",
    "max_depth",
    "context_full",
    "stack_full",
    "token_budget",
    "call_budget",
    "cycle",
)


def opening(prompt: str, suffix: str = SOLUTION) -> str:
    """Text that opens a context: what stands before its first segment."""
    return f" {prompt}{suffix}"


def paste(value: str) -> str:
    """Text that the decoder puts behind a call once the callee's value is known."""
    return f"Return: {value}\n{ANSWER}"


@dataclass(frozen=True, slots=True)
class CallRead:
    """The segment asks for the subproblem `prompt`."""

    prompt: str


@dataclass(frozen=True, slots=True)
class AnswerRead:
    """The segment ends its context with `value`."""

    value: str


@dataclass(frozen=True, slots=True)
class BadRead:
    """The segment has no meaning: status `bad_call`."""


def read(segment_text: str) -> CallRead | AnswerRead | BadRead:
    """Say what a generated segment (without its end-of-sequence token) means. Takes any text and never raises."""
    _, call, prompt = segment_text.rpartition(CALL)
    if call:
        # A call that was cut off has no newline; the subproblem it names may have been cut too.
        prompt = prompt.strip()
        return CallRead(prompt) if prompt and segment_text.endswith("\n") else BadRead()
    return AnswerRead(segment_text.rpartition(ANSWER)[2].strip())


@dataclass(frozen=True, slots=True)
class Segment:
    """One stretch of generated text.

    `text` begins with a space and has no end-of-sequence token; a call ends with a newline.
    `callee` is the context that the call opened, None for an answer (or where the decoder did not get that far).
    """

    text: str
    callee: Context | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True, eq=False)
class Context:
    """One window of text and, through its calls, all contexts below it.

    Equality compares whole trees. `status` is one of `STATUSES` and says how the context ended. Where a context does not
    carry (an ablation), `Return:` is pasted behind its calls with nothing after it.
    """

    prompt: str
    segments: tuple[Segment, ...]
    status: str = "ok"
    carries: bool = True

    def inputs(self, suffix: str = SOLUTION) -> list[str]:
        """Text that stands before each segment: the opening, then what was pasted behind each call."""
        carried = (segment.callee if self.carries else None for segment in self.segments[:-1])
        pasted = [paste(callee.value if callee else "") for callee in carried]
        return [opening(self.prompt, suffix), *pasted]

    def outputs(self) -> list[str]:
        """Text of each segment, as generated."""
        return [segment.text for segment in self.segments]

    @property
    def value(self) -> str:
        """What goes back to the caller: the value of the last segment, "" where that is no answer."""
        last = read(self.segments[-1].text) if self.segments else BadRead()
        return last.value if isinstance(last, AnswerRead) else ""

    @property
    def text(self) -> str:
        """The whole window as one string, opened the way of Re-Tuning."""
        # An unfinished context may have an opening without a segment behind it.
        outputs = [*self.outputs(), ""][: max(1, len(self.segments))]
        return "".join(before + output for before, output in zip(self.inputs(), outputs))

    def walk(self) -> Iterator[Context]:
        """Yield this context and all below it, in the order in which they open."""
        waiting = [self]
        while waiting:
            context = waiting.pop()
            yield context
            waiting.extend(segment.callee for segment in reversed(context.segments) if segment.callee)

    def turns(self, suffix: str = SOLUTION) -> Iterator[tuple[str, str]]:
        """Yield (window so far, segment) for every segment of the tree, in the order in which they are generated.

        A call comes first, then all that happens in its callee, then the caller's next segment.
        """
        waiting = [(self, 0, "")]
        while waiting:
            context, index, window = waiting.pop()
            if index == len(context.segments):
                continue
            segment = context.segments[index]
            window += context.inputs(suffix)[index]
            yield window, segment.text
            waiting.append((context, index + 1, window + segment.text))
            if segment.callee:
                waiting.append((segment.callee, 0, ""))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Context):
            return NotImplemented
        return self._flat() == other._flat()

    def __hash__(self) -> int:
        return hash((self.prompt, self.status, tuple(self.outputs())))

    def _flat(self) -> list[tuple]:
        """The tree as a list; which segments have a callee is enough to rebuild its shape."""
        return [
            (context.prompt, context.status, context.carries, [(s.text, s.callee is None) for s in context.segments])
            for context in self.walk()
        ]
