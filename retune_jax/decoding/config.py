"""What a decoder is built for: sizes of its buffers, limits of a problem, and how it chooses tokens."""

from dataclasses import dataclass

from retune_jax.errors import UserError

STACKS = ("keep", "offload", "recompute", "auto")


@dataclass(frozen=True)
class DecoderConfig:
    """Settings of a `RecursiveDecoder`; all of them are fixed when it is compiled. Lengths are in tokens.

    Attributes:
        slots: problems worked on at a time.
        window: longest context: prompt, generated and pasted text together. A longer one is `context_full`.
        max_depth: how many callers may be suspended below a context; one more call is `max_depth`.
        stack_tokens: room for all suspended callers of a slot together; a caller takes what it has written so far.
            Where its keys and values are kept, this is what most of a slot's memory goes to. More is `stack_full`.
        max_tokens: generated tokens of a problem, in all its contexts, each segment's EOS counted; more is `token_budget`.
        max_calls: calls of a problem; more is `call_budget`.
        tokens_per_step: tokens of a slot that one pass of the model takes: known ones first, then guesses.
        steps_per_advance: passes of the model, each with its transition, between two looks by the host. A slot whose
            problem ends early waits for the rest.
        calls: False takes `Call:` for plain text: every segment is an answer (the methods that do not recurse).
        opening: text between a prompt and what the model generates, "\nSolution:" for Re-Tuning.
        temperature: 0 takes the likeliest token; above, tokens are drawn from softmax(logits / temperature).
        top_k: draws are from the so many likeliest tokens only; 0: from all.
        top_p: draws are from the fewest likeliest tokens that together have this probability; 1: from all.
        seed: of those draws.
        draft: guess tokens by copying from the context, so that a pass can accept several. Never changes the text.
        stack: what becomes of a suspended caller's keys and values: "keep" them on the device, "offload" them to the host's
            memory, "recompute" them when it goes on, or "auto": the first of keep, offload, recompute that fits.
        memory_gib: room for the decoder with its weights; 0: what the device has free.
        memo: entries of the table of solved subproblems (memo.py); 0: none. Never changes the text.
        trace: say for each segment how likely the model found it (`Result.spoken`).
        carry: False pastes nothing of a callee's value behind `Return:` (an ablation of Re-Tuning).
    """

    slots: int
    window: int
    max_depth: int
    stack_tokens: int
    max_tokens: int
    max_calls: int
    tokens_per_step: int
    steps_per_advance: int
    calls: bool
    opening: str
    temperature: float
    seed: int
    draft: bool
    carry: bool = True
    trace: bool = False
    top_k: int = 0
    top_p: float = 1.0
    stack: str = "keep"
    memory_gib: float = 0.0
    memo: int = 0

    def __post_init__(self):
        """Raises UserError for a size that no decoder can have."""
        for name in ("slots", "window", "max_tokens", "tokens_per_step", "steps_per_advance"):
            if getattr(self, name) < 1:
                raise UserError(f"decode.{name} is {getattr(self, name)}; it has to be at least 1")
        if self.stack not in STACKS:
            raise UserError(f"decode.stack is {self.stack!r}; it is one of {', '.join(STACKS)}")
        for name in ("max_depth", "stack_tokens", "max_calls", "temperature", "memory_gib", "memo", "top_k"):
            if getattr(self, name) < 0:
                raise UserError(f"decode.{name} is {getattr(self, name)}; it cannot be negative")
        if not 0 < self.top_p <= 1:
            raise UserError(f"decode.top_p is {self.top_p}; it is above 0 and at most 1")
        if self.tokens_per_step > self.window:
            raise UserError(f"decode.tokens_per_step is {self.tokens_per_step}, more than the window of {self.window}")
