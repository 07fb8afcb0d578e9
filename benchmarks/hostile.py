"""10,000 problems put to models that write anything but solutions: each has to end by a status, within its budgets, alone.

    python benchmarks/hostile.py [--cases=10000] [--seed=0] [--only=KIND]

The models are a hash of the context so far, bent towards one kind of hostility: endless text, endless calls, calls that are
broken in every way, all bytes and control pieces, and random weights of a real network. Each is asked its share of the cases,
side by side and in random order, then again with other slots, tokens a step, order, guessing, stack policy and memo. Checked:
every case has a status; tokens, calls and depth are within the limits; the second run says the same of every case.

What each kind came to goes into benchmarks/results/hostile.json as soon as it is there, so that it can be run kind by kind.
"""

import collections
import dataclasses
import json
import sys
import time
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import prefix_hash
from absl import app, flags
from flax import nnx

from retune_jax import tokenizer
from retune_jax.decoding import DecoderConfig, RecursiveDecoder
from retune_jax.models import presets
from retune_jax.models.llama import Llama
from retune_jax.protocol import SOLUTION, STATUSES

CASES = flags.DEFINE_integer("cases", 10_000, "Problems, over all kinds of model.")
SEED = flags.DEFINE_integer("seed", 0, "Of the prompts and the models.")
ONLY = flags.DEFINE_string("only", "", "Only the kinds of model that begin like this; their share of the cases stays.")
OUTPUT = flags.DEFINE_string("output", "benchmarks/results", "Folder for the results.")

CONFIG = DecoderConfig(
    slots=64,
    window=96,
    max_depth=6,
    stack_tokens=400,
    max_tokens=400,
    max_calls=20,
    tokens_per_step=8,
    steps_per_advance=8,
    calls=True,
    opening=SOLUTION,
    temperature=0.0,
    seed=0,
    draft=True,
)
AGAIN = {"slots": 37, "tokens_per_step": 5, "steps_per_advance": 11, "draft": False, "stack": "recompute", "memo": 512}


class Rubbish(nnx.Module):
    """Logits that are a hash of all tokens so far, plus a bias by the last token; `network` adds a real one's."""

    def __init__(self, bias_VV: np.ndarray, seed: int, network: nnx.Module | None = None):
        self.bias_VV, self.seed, self.network = nnx.Variable(jnp.asarray(bias_VV, jnp.float32)), seed, network

    def init_cache(self, batch: int, window: int):
        """One number a token, and the network's cache."""
        return prefix_hash.empty(batch, window), self.network.init_cache(batch, window) if self.network else ()

    def step(self, tokens_BC, start_B, cache):
        """As `Llama.step`."""
        entries_B1W1, inner = cache
        hash_BC, entries_B1W1 = prefix_hash.extended(entries_B1W1, tokens_BC, start_B, self.seed)
        each_V = prefix_hash.scatter(jnp.arange(self.bias_VV.shape[0], dtype=jnp.uint32))
        bits_BCV = prefix_hash.scatter(hash_BC[..., None] ^ each_V)
        logits_BCV = bits_BCV.astype(jnp.float32) * 2.0**-32 + self.bias_VV[...][tokens_BC]
        if self.network:
            # Rounded, because two schedules round differently, and a near tie would be another text.
            inner_BCV, inner = self.network.step(tokens_BC, start_B, inner)
            logits_BCV += jnp.round(inner_BCV * 4) / 4
        return logits_BCV, (entries_B1W1, inner)


def kinds(tokens) -> dict[str, Rubbish]:
    """A model for each kind of hostility."""

    def bias(base: float, after: dict[str, dict[str, float]], everywhere: dict[str, float]) -> np.ndarray:
        def piece(text: str) -> int:
            return tokens.eos if text == "EOS" else tokens.encode(text)[-1]

        bias_VV = np.full((tokens.vocab_size,) * 2, base, np.float32)
        for text, value in everywhere.items():
            bias_VV[:, piece(text)] += value
        for last, followers in after.items():
            for text, value in followers.items():
                bias_VV[piece(last), piece(text)] += value
        return bias_VV

    digits = dict.fromkeys("123", 3.0)
    call = {":": {" Call": 3.4}, " Call": {":": 9.0}, "\n": {"EOS": 9.0}}
    broken = {":": {" Call": 3.2}, " Call": {":": 4.0}}
    shape = dataclasses.replace(
        presets.get("tiny"), vocab_size=tokens.vocab_size, layers=2, width=32, heads=2, kv_heads=2, head_width=16, hidden=64
    )
    return {
        "endless text": Rubbish(bias(0, {}, digits | {"EOS": -9.0}), SEED.value),
        "endless calls": Rubbish(bias(0, call, digits | {"\n": 2.8, "EOS": -1.0}), SEED.value),
        "broken calls": Rubbish(bias(0, broken, digits | {"EOS": 2.6, "\n": 2.4}), SEED.value),
        "bytes": Rubbish(bias(0, {}, {"EOS": 0.05}), SEED.value),
        "random weights": Rubbish(
            bias(0, call, {"EOS": 0.1}), SEED.value, Llama(shape, None, remat="none", rngs=nnx.Rngs(SEED.value))
        ),
    }


def mistakes(results, again) -> list[str]:
    """What is wrong with two runs of the same cases."""
    wrong = []
    for first, second in zip(results, again, strict=True):
        limits = first.tokens <= CONFIG.max_tokens, first.calls <= CONFIG.max_calls, first.depth <= CONFIG.max_depth
        if first.status not in STATUSES or not all(limits):
            wrong.append(f"{first.prompt!r}: {first.status}, {first.tokens} tokens, {first.calls} calls, depth {first.depth}")
        if first != second:
            wrong.append(f"{first.prompt!r} differs between two schedules: {first.status} and {second.status}")
    return wrong


def main(_):
    """The command line."""
    tokens, failed = tokenizer.tiny(), False
    models = kinds(tokens)
    share = CASES.value // len(models)
    for name, model in models.items():
        if not name.startswith(ONLY.value):
            continue
        started, rng = time.perf_counter(), np.random.default_rng(SEED.value)
        prompts = [f"{case} {rng.integers(10**6)}" for case in range(share)]
        results = RecursiveDecoder(model, tokens, CONFIG).solve(prompts)
        order = rng.permutation(len(prompts)).tolist()
        shuffled = RecursiveDecoder(model, tokens, dataclasses.replace(CONFIG, **AGAIN)).solve([prompts[n] for n in order])
        again = dict(zip(order, shuffled))
        wrong = mistakes(results, [again[n] for n in range(len(prompts))])
        statuses = dict(collections.Counter(result.status for result in results).most_common())
        print(f"{name}: {share} cases, {statuses}, {len(wrong)} mistakes, {time.perf_counter() - started:.0f} s", flush=True)
        for line in wrong[:20]:
            print(line, file=sys.stderr)
        note(name, {"seed": SEED.value, "cases": share, "statuses": statuses, "mistakes": len(wrong)})
        failed |= bool(wrong)
    return 1 if failed else 0


def note(kind: str, row: dict):
    """Puts what a kind came to into the results, in the place of what it came to before."""
    path = Path(OUTPUT.value) / "hostile.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps(rows | {kind: row}, indent=1) + "\n")


if __name__ == "__main__":
    app.run(main)
