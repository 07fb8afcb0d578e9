"""The protocol as a program around a transformers model: what one would write without this project.

    recomputed    `generate` for the innermost context of every problem; after a return the caller's whole context is fed again
    kept          the same with `past_key_values`: a suspended caller's keys and values are kept, and only the paste is fed

Both work level by level: all problems of a batch write one segment each, then each opens a callee or goes back to its caller.
A batch of one is the authors' loop.

A batch of contexts of unequal lengths is padded on the left. Where keys and values are kept, they have to end in the same
column, too: the batch feeds as many tokens of each context as the one with most to feed, so that of the others some are fed
again. A loop of its own around the model's forward pass takes the place of `generate` there, with less work beside it.

Limits are those of a `DecoderConfig`, so that a problem ends where the decoder ends it. Where the text is given, the model's
passes and choices are made as ever, and the given tokens are taken in the place of what was chosen.
"""

import dataclasses

import numpy as np
import torch
from transformers import DynamicCache, LlamaForCausalLM

from retune_jax.decoding import DecoderConfig
from retune_jax.protocol import AnswerRead, CallRead, opening, paste, read


@dataclasses.dataclass
class Window:
    """A context: its ids, what it opened with, and keys and values [layers, 2, heads, n, width] of its first n tokens."""

    ids: list[int]
    opened: tuple[int, ...]
    kept: torch.Tensor | None = None

    @property
    def length(self) -> int:
        """How many tokens have keys and values."""
        return 0 if self.kept is None else self.kept.shape[3]


class Problem:
    """A problem's open contexts, outermost first, and what it has written."""

    def __init__(self, pipeline: "Pipeline", prompt: str, given: list[str] | None):
        self.limits, self.tokenizer, self.given = pipeline.limits, pipeline.tokenizer, given
        self.texts: list[str] = []
        self.calls = self.tokens = 0
        self.stack = [self.window(prompt)]

    def window(self, prompt: str) -> Window:
        """The window that a prompt opens."""
        ids = [self.tokenizer.bos, *self.tokenizer.encode(opening(prompt, self.limits.opening))]
        return Window(ids, tuple(ids))

    def coming(self) -> list[int] | None:
        """The ids of the next segment, where the text is given."""
        return None if self.given is None else self.tokenizer.encode(self.given[len(self.texts)])

    def turn(self, ids: list[int], ended: bool):
        """Goes on behind a segment that the innermost context has written; `ended` says that it met EOS.

        A problem without open contexts has ended, for whatever reason.
        """
        top, limits = self.stack[-1], self.limits
        room = min(limits.window - len(top.ids), limits.max_tokens - self.tokens)
        cut = len(ids) > room or not ended
        ids = ids[:room]
        text = self.tokenizer.decode(ids)
        self.texts += [text] if ids or not cut else []
        self.tokens += len(ids) + (not cut)
        top.ids = top.ids + ids
        meaning = read(text)
        if not cut and isinstance(meaning, CallRead):
            callee, stack = self.window(meaning.prompt), self.stack
            if (
                any(callee.opened == open.opened for open in stack)
                or len(stack) > limits.max_depth
                or self.calls >= limits.max_calls
                or len(callee.ids) > limits.window
                or sum(len(open.ids) for open in stack) > limits.stack_tokens
            ):
                stack.clear()
                return
            self.calls += 1
            stack.append(callee)
        elif not cut and isinstance(meaning, AnswerRead) and len(self.stack) > 1:
            self.stack.pop()
            self.stack[-1].ids = self.stack[-1].ids + self.tokenizer.encode(paste(meaning.value))
            if len(self.stack[-1].ids) > limits.window:
                self.stack.clear()
        else:
            self.stack.clear()


class Pipeline:
    """Solves problems with the model in a folder of transformers' files, greedily and within a decoder's limits."""

    def __init__(self, folder: str, tokenizer, limits: DecoderConfig):
        self.tokenizer, self.limits = tokenizer, limits
        self.model = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()

    def solve(
        self, prompts: list[str], batch: int, *, keep: bool = False, given: list[list[str]] | None = None, **options
    ) -> list[list[str]]:
        """All segments of each problem, in the order in which they are written; `batch` problems at a time.

        Args:
            prompts: the problems.
            batch: how many of them.
            keep: whether suspended callers keep their keys and values.
            given: the segments that each is to write, whatever the model would.
            **options: of `generate`, where they do not.
        """
        problems = [Problem(self, prompt, given and given[number]) for number, prompt in enumerate(prompts)]
        with torch.inference_mode():
            for first in range(0, len(problems), batch):
                going = problems[first : first + batch]
                while going := [problem for problem in going if problem.stack]:
                    rows, coming = [problem.stack[-1] for problem in going], [problem.coming() for problem in going]
                    written = self.kept(rows, coming) if keep else self.recomputed(rows, coming, **options)
                    for problem, (ids, ended) in zip(going, written):
                        problem.turn(ids, ended)
        return [problem.texts for problem in problems]

    def recomputed(self, rows: list[Window], coming: list, **options) -> list[tuple[list[int], bool]]:
        """What the model writes behind each window, and whether it came to EOS; `coming` is what it is to write, or Nones."""
        longest, shortest = max(len(row.ids) for row in rows), min(len(row.ids) for row in rows)
        ids, mask = self._padded(rows, longest)
        most = self.limits.window - shortest + 1  # EOS needs no room
        if coming[0] is not None:
            most = max(len(segment) for segment in coming) + 1
            options["min_new_tokens"] = most
        written = self.model.generate(
            ids,
            attention_mask=mask,
            do_sample=False,
            max_new_tokens=most,
            eos_token_id=self.tokenizer.eos,
            pad_token_id=self.tokenizer.eos,
            **options,
        )
        if coming[0] is not None:
            return [(segment, True) for segment in coming]
        return [self._to_eos(row) for row in written[:, longest:].tolist()]

    def kept(self, rows: list[Window], coming: list) -> list[tuple[list[int], bool]]:
        """As `recomputed`; the windows' keys and values are used, and kept up to their ends."""
        fed = max(len(row.ids) - row.length for row in rows)
        longest = max(len(row.ids) for row in rows)
        ids, mask = self._padded(rows, longest)
        positions = (mask.cumsum(1) - 1).clamp(min=0)
        cache = DynamicCache(self._cache(rows, longest - fed)) if longest > fed else DynamicCache()
        tokens, done, room = ids[:, longest - fed :], torch.zeros(len(rows), dtype=torch.bool), self.limits.window
        positions, new = positions[:, longest - fed :], []
        one, given = torch.ones(len(rows), 1, dtype=mask.dtype), None
        if coming[0] is not None:
            most = max(len(segment) for segment in coming) + 1
            given = torch.tensor([segment + [self.tokenizer.eos] * (most - len(segment)) for segment in coming])
        for at in range(room - min(len(row.ids) for row in rows) + 1):
            logits = self.model(
                input_ids=tokens, attention_mask=mask, position_ids=positions, cache=cache, logits_to_keep=1
            ).logits
            tokens = logits[:, -1:].argmax(-1)
            tokens = tokens if given is None else given[:, at : at + 1]
            new.append(tokens)
            done |= tokens[:, 0] == self.tokenizer.eos
            if done.all():
                break
            mask, positions = torch.cat([mask, one], 1), positions[:, -1:] + 1
        written = [self._to_eos(row) for row in torch.cat(new, 1).tolist()]
        layers = torch.stack([torch.stack([layer.keys, layer.values]) for layer in cache.layers])
        for number, (row, (segment, _)) in enumerate(zip(rows, written)):
            pad = longest - len(row.ids)
            row.kept = layers[:, :, number, :, pad : longest + len(segment)].clone()
        return written

    def _padded(self, rows: list[Window], longest: int) -> tuple[torch.Tensor, torch.Tensor]:
        """The windows' ids on the right of so many columns, and which columns they are."""
        ids = np.full((len(rows), longest), self.tokenizer.eos)
        mask = np.zeros((len(rows), longest), np.int64)
        for number, row in enumerate(rows):
            ids[number, longest - len(row.ids) :] = row.ids
            mask[number, longest - len(row.ids) :] = 1
        return torch.from_numpy(ids), torch.from_numpy(mask)

    def _cache(self, rows: list[Window], columns: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Keys and values of the windows in the columns before those that are fed."""
        some = next(row.kept for row in rows if row.kept is not None)
        layers, _, heads, _, width = some.shape
        padded = torch.zeros(layers, 2, len(rows), heads, columns, width)
        longest = max(len(row.ids) for row in rows)
        for number, row in enumerate(rows):
            pad = longest - len(row.ids)
            if row.kept is not None and pad < columns:
                padded[:, :, number, :, pad:] = row.kept[:, :, :, : columns - pad]
        return [(layer[0], layer[1]) for layer in padded]

    def _to_eos(self, ids: list[int]) -> tuple[list[int], bool]:
        eos = self.tokenizer.eos
        return (ids[: ids.index(eos)], True) if eos in ids else (ids, False)
