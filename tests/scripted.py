"""Models for tests of the decoder, whose next token is known exactly, and a plain recursion to compare the decoder with.

`ScriptedModel` knows no language: it looks the next token up by the whole context so far. Its "keys and values" are one number
per token, and what it looks up is a hash of *all* numbers up to the present token, so that a single wrong entry of the cache (a
caller restored from the wrong place, a guess not overwritten) makes it lose the thread and write rubbish.

Shapes: B slots, C tokens of a step, W window, N known contexts, V vocabulary.
"""

from collections.abc import Callable, Iterable, Mapping

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from retune_jax import tasks
from retune_jax.decoding import DecoderConfig, Result
from retune_jax.protocol import SOLUTION, AnswerRead, BadRead, Context, Segment, read

# A small decoder, as most tests of it want one.
SMALL = DecoderConfig(
    slots=3,
    window=96,
    max_depth=3,
    stack_tokens=240,
    max_tokens=200,
    max_calls=12,
    tokens_per_step=8,
    steps_per_advance=8,
    calls=True,
    opening=SOLUTION,
    temperature=0.0,
    seed=0,
    draft=True,
)


def scatter(bits):
    """A bijection of uint32 that leaves no pattern; the same in NumPy and JAX."""
    bits = (bits ^ (bits >> 16)) * np.uint32(0x7FEB352D)
    bits = (bits ^ (bits >> 15)) * np.uint32(0x846CA68B)
    return bits ^ (bits >> 16)


def entry(token, position):
    """The number that stands for a token at a position; the hash of a context is the sum of its entries."""
    return scatter(scatter(token + np.uint32(1)) + position * np.uint32(0x9E3779B9))


class PrefixModel(nnx.Module):
    """A model whose logits depend on the hash of all tokens so far, in the way of a subclass."""

    def __init__(self, vocab_size: int):
        self.vocab_size = vocab_size

    def init_cache(self, batch: int, window: int):
        return (jnp.zeros((batch, 1, window, 1), jnp.uint32),)

    def step(self, tokens_BC, start_B, cache):
        count, window = tokens_BC.shape[1], cache[0].shape[2]
        at_BC = (start_B[:, None] + jnp.arange(count)).astype(jnp.uint32)
        new_BC = entry(tokens_BC.astype(jnp.uint32), at_BC)
        put = jax.vmap(lambda old, new, at: jax.lax.dynamic_update_slice(old, new, (at,)))
        entries_BW = put(cache[0][:, 0, :, 0], new_BC, start_B)
        old_B = jnp.where(jnp.arange(window) < start_B[:, None], entries_BW, 0).sum(1, dtype=jnp.uint32)
        hash_BC = old_B[:, None] + jnp.cumsum(new_BC, axis=1, dtype=jnp.uint32)
        return self.logits(hash_BC, tokens_BC), (entries_BW[:, None, :, None],)


class ScriptedModel(PrefixModel):
    """Writes what a script says: a mapping from the ids of a context so far to the next id. Off the script, `lost` for ever."""

    def __init__(self, script: Mapping[tuple[int, ...], int], vocab_size: int, lost: int):
        super().__init__(vocab_size)
        self.lost = lost
        hashes_N = np.array([hash_of(ids) for ids in script], np.uint32)
        assert len(set(hashes_N.tolist())) == len(script), "two contexts of the script have the same hash"
        order_N = np.argsort(hashes_N)
        self.known_N = nnx.Variable(jnp.asarray(hashes_N[order_N]))
        self.next_N = nnx.Variable(jnp.asarray(np.array(list(script.values()), np.int32)[order_N]))

    def logits(self, hash_BC, tokens_BC):
        known_N, next_N = self.known_N[...], self.next_N[...]
        at_BC = jnp.clip(jnp.searchsorted(known_N, hash_BC), 0, known_N.shape[0] - 1)
        next_BC = jnp.where(known_N[at_BC] == hash_BC, next_N[at_BC], self.lost)
        return jax.nn.one_hot(next_BC, self.vocab_size, dtype=jnp.float32)


class RandomModel(PrefixModel):
    """Logits without rhyme or reason, but a function of the whole context. `bias_VV[last]` makes some tokens likelier."""

    def __init__(self, bias_VV: np.ndarray):
        super().__init__(len(bias_VV))
        self.bias_VV = nnx.Variable(jnp.asarray(bias_VV, jnp.float32))

    def logits(self, hash_BC, tokens_BC):
        bits_BCV = scatter(hash_BC[..., None] ^ scatter(jnp.arange(self.vocab_size, dtype=jnp.uint32)))
        return bits_BCV.astype(jnp.float32) * 2.0**-32 + self.bias_VV[...][tokens_BC]


class MixedModel(RandomModel):
    """A language model's logits, scaled down, on top of the random ones: a real cache, and text that does not repeat itself."""

    def __init__(self, model: nnx.Module, bias_VV: np.ndarray, scale: float):
        super().__init__(bias_VV)
        self.model, self.scale = model, scale

    def init_cache(self, batch: int, window: int):
        return super().init_cache(batch, window), self.model.init_cache(batch, window)

    def step(self, tokens_BC, start_B, cache):
        random_BCV, prefixes = super().step(tokens_BC, start_B, cache[0])
        logits_BCV, cache = self.model.step(tokens_BC, start_B, cache[1])
        return random_BCV + self.scale * logits_BCV, (prefixes, cache)

    def uncached(self, tokens_T, length, prefix):
        """Logits [V] behind the first `length` tokens, whose hash is `prefix`, by the training pass over the whole row."""
        at_1T = jnp.arange(tokens_T.shape[0])[None]
        logits_V = self.model(tokens_T[None], at_1T, jnp.ones_like(at_1T))[0, length - 1]
        return self.logits(prefix[None, None], tokens_T[None, length - 1][None])[0, 0] + self.scale * logits_V


def babble(tokenizer) -> np.ndarray:
    """A bias [V, V] that turns random logits in 0..1 into short segments of digits: calls, bad calls and words among them."""
    bias_VV = np.full((tokenizer.vocab_size,) * 2, -4.0, np.float32)

    def after(text: str, *likely: str):
        last = tokenizer.encode(text)[-1]
        for follower in likely:
            bias_VV[last, tokenizer.eos if follower == "EOS" else tokenizer.encode(follower)[-1]] = 0.0

    for text in (" ", "1", "2", "3", "\n", ":", " Call", "Answer", " the"):
        after(text, "1", "2", "3", " ")
    after(":", " Call", " ", "EOS", " the", "Answer")
    after(" Call", ":")
    after(" the", "\n", " Call", "1", "2", "3")
    for digit in "123":
        after(digit, "1", "2", "\n", "EOS", " the")
    after("\n", "EOS", "Answer", " the")
    after("Answer", ":")
    for last, follower, more in (
        (" Call", ":", 0.7),
        (":", " Call", 0.4),
        ("\n", "EOS", 0.8),
        ("1", "\n", 0.4),
        ("2", "\n", 0.4),
    ):
        row = bias_VV[tokenizer.encode(last)[-1]]
        row[tokenizer.eos if follower == "EOS" else tokenizer.encode(follower)[-1]] += more
    return bias_VV


def hostile(tokenizer) -> dict[str, np.ndarray]:
    """Biases [V, V] of models that write anything but solutions: text and calls without end, broken calls, any bytes."""

    def bias(everywhere: dict[str, float], *after: tuple[str, str, float]) -> np.ndarray:
        def piece(text: str) -> int:
            return tokenizer.eos if text == "EOS" else tokenizer.encode(text)[-1]

        bias_VV = np.zeros((tokenizer.vocab_size,) * 2, np.float32)
        for text, more in everywhere.items():
            bias_VV[:, piece(text)] += more
        for last, follower, more in after:
            bias_VV[piece(last), piece(follower)] += more
        return bias_VV

    digits = dict.fromkeys("123", 3.0)
    return {
        "text": bias(digits | {"EOS": -9.0}),
        "calls": bias(digits | {"\n": 2.8, "EOS": -1.0}, (":", " Call", 3.4), (" Call", ":", 9.0), ("\n", "EOS", 9.0)),
        "broken": bias(digits | {"EOS": 2.6, "\n": 2.4}, (":", " Call", 3.2), (" Call", ":", 4.0)),
        "bytes": bias({"EOS": 0.05}),
    }


def hash_of(ids: Iterable[int]) -> int:
    """The hash that `PrefixModel` gives a context of these ids."""
    ids = np.array(list(ids), np.uint32)
    return int(entry(ids, np.arange(len(ids), dtype=np.uint32)).sum(dtype=np.uint32))


def script_of(tokenizer, contexts: Iterable[Context], opening: str) -> dict[tuple[int, ...], int]:
    """What a model has to write after what, so that decoding each context's prompt replays its tree."""
    script = {}
    for tree in contexts:
        for context in tree.walk():
            ids = [tokenizer.bos]
            for before, text in zip(context.inputs(opening), context.outputs()):
                ids += tokenizer.encode(before)
                for token in (*tokenizer.encode(text), tokenizer.eos):
                    assert script.setdefault(tuple(ids), token) == token, "two contexts go on differently"
                    ids.append(token)
                ids.pop()  # EOS is not kept
    return script


class Stop(Exception):
    """The plain recursion ends early, with a status."""


class PlainRecursion:
    """The protocol as an ordinary recursive program over token ids: no cache, no slots, one token at a time.

    What the decoder's results are compared with. `next_token` maps the ids of a context so far to the next one.
    """

    def __init__(self, next_token: Callable[[list[int]], int], tokenizer, config: DecoderConfig):
        self.next_token, self.tokenizer, self.config = next_token, tokenizer, config
        self.opening, self.space = tokenizer.encode(config.opening), tokenizer.encode(" ")

    def solve(self, prompt: str) -> Result:
        self.tokens = self.calls = self.depth = 0
        top = {"prompt": prompt, "segments": [], "status": "ok"}
        try:
            self.context(top, [self.tokenizer.bos, *self.tokenizer.encode(f" {prompt}"), *self.opening], [])
        except Stop as stop:
            top["status"] = str(stop)
        tree = self.tree(top)
        text = tree.segments[-1].text if tree.segments else ""
        value = tree.value if tree.status == "ok" else ""
        return Result(prompt, tree.status, text, value, tree, self.calls, self.tokens, self.depth)

    def context(self, record: dict, window: list[int], callers: list[tuple[list[int], list[int]]]) -> list[int]:
        """Runs a context whose window opens like this; returns the ids of its value. `callers`: (opening, window) of each."""
        opened = list(window)
        self.depth = max(self.depth, len(callers))
        while True:
            segment = self.segment(record, window)
            text = self.tokenizer.decode(segment)
            meaning = read(text)
            if isinstance(meaning, AnswerRead):
                value = self.copied(segment, b"Answer:")
                if value is None:
                    raise Stop("bad_call")
                return value
            prompt = self.copied(segment, b"Call:")
            if isinstance(meaning, BadRead) or prompt is None:
                raise Stop("bad_call")
            callee_window = [self.tokenizer.bos, *prompt, *self.opening]
            callers_now = [*callers, (opened, window)]
            for status, holds in (
                ("cycle", any(callee_window == other for other, _ in callers_now)),
                ("max_depth", len(callers) >= self.config.max_depth),
                ("call_budget", self.calls >= self.config.max_calls),
                ("context_full", len(callee_window) > self.config.window),
                ("stack_full", sum(len(other) for _, other in callers_now) > self.config.stack_tokens),
            ):
                if holds:
                    raise Stop(status)
            self.calls += 1
            callee = {"prompt": meaning.prompt, "segments": [], "status": "ok"}
            record["segments"][-1] = (text, callee)
            try:
                value = self.context(callee, callee_window, callers_now)
            except Stop as stop:
                callee["status"] = str(stop)
                raise
            window += [*self.tokenizer.encode("Return:"), *value, *self.tokenizer.encode("\nAnswer:")]
            if len(window) > self.config.window:
                raise Stop("context_full")

    def segment(self, record: dict, window: list[int]) -> list[int]:
        """Generates a segment behind the window and returns its ids."""
        segment, stop = [], ""
        while not stop:
            token = self.next_token(window)
            if self.tokens >= self.config.max_tokens:
                stop = "token_budget"
            elif token == self.tokenizer.eos:
                self.tokens += 1
                record["segments"].append((self.tokenizer.decode(segment), None))
                return segment
            elif len(window) >= self.config.window:
                stop = "context_full"
            else:
                self.tokens += 1
                segment.append(token)
                window.append(token)
        if segment:
            record["segments"].append((self.tokenizer.decode(segment), None))
        raise Stop(stop)

    def copied(self, segment: list[int], word: bytes) -> list[int] | None:
        """The ids behind the last `word`, without outer blanks, one space before; None if the word ends inside a piece."""
        pieces = [self.tokenizer.pieces[token] for token in segment]
        begins = np.cumsum([0, *map(len, pieces)]).tolist()
        at = b"".join(pieces).rfind(word)
        start = 0 if at < 0 else at + len(word)
        first = next(n for n, begin in enumerate(begins) if begin >= start)
        if b"".join(pieces)[start : begins[first]].strip():
            return None
        ids = segment[first:]
        while ids and not self.tokenizer.decode(ids[:1]).strip():
            ids = ids[1:]
        while ids and not self.tokenizer.decode(ids[-1:]).strip():
            ids = ids[:-1]
        return ids if ids and self.tokenizer.pieces[ids[0]].startswith(b" ") else [*self.space, *ids]

    def tree(self, record: dict) -> Context:
        segments = (Segment(text, callee and self.tree(callee)) for text, callee in record["segments"])
        return Context(record["prompt"], tuple(segments), record["status"])


def bits_tree(bits, **written):
    """The tree of a model that solves parity but for some contexts: `at2=7` is the answer where two bits are left."""
    context = None
    for n in range(1, len(bits) + 1):
        value = sum(bits[-n:]) % 2 if context is None else (bits[-n] + int(context.value)) % 2
        answer = Segment(f" {written.get(f'at{n}', value)}")
        call = [Segment(f" Call: {context.prompt}\n", context)] if context else []
        context = Context(tasks.get("parity").prompt(bits[-n:]), (*call, answer))
    return context
