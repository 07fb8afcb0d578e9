"""How near a pass of the decoder comes to what the memory can deliver: LLaMA 7B shapes in bfloat16 on one GPU.

    python benchmarks/decode_gpu.py [--model=llama_7b] [--layers=32] [--tokens=8] [--context=512]

A pass has to read every weight once and the keys and values of every context once. For batches of 1, 8, 32 and 64 slots, the
time of a pass is put against (weight bytes + key and value bytes) / bandwidth, where the bandwidth is what a copy of 1 GiB
reaches on the same device. The weights are random: their values do not change the time, and no problem is solved.

No GPU was at hand when this was written; on a CPU it runs with --layers=1 --batches=1,2 and says nothing about a GPU.
"""

import dataclasses
import json
import statistics
import time
from pathlib import Path

import jax
import jax.numpy as jnp
from absl import app, flags
from flax import nnx

from retune_jax import tokenizer
from retune_jax.decoding import DecoderConfig, RecursiveDecoder, decoder
from retune_jax.models import presets
from retune_jax.models.llama import Llama
from retune_jax.protocol import SOLUTION

MODEL = flags.DEFINE_string("model", "llama_7b", "A shape of models/presets.py.")
LAYERS = flags.DEFINE_integer("layers", 0, "Layers, where not the shape's own.")
BATCHES = flags.DEFINE_list("batches", ["1", "8", "32", "64"], "Slots.")
TOKENS = flags.DEFINE_integer("tokens", 8, "Tokens of a slot that a pass takes.")
CONTEXT = flags.DEFINE_integer("context", 512, "Length of the windows.")
RUNS = flags.DEFINE_integer("runs", 10, "Runs; the median counts.")
OUTPUT = flags.DEFINE_string("output", "benchmarks/results", "Folder for the results.")
PASSES = 8  # of an advance


def seconds(run) -> float:
    """The median time of a run, after two that do not count."""
    times = []
    for _ in range(RUNS.value + 2):
        started = time.perf_counter()
        jax.block_until_ready(run())
        times.append(time.perf_counter() - started)
    return statistics.median(times[2:])


def bandwidth() -> float:
    """Bytes a second, read and written, of a copy on the device."""
    size = 1 << 28  # 1 GiB of float32
    block = jnp.zeros(size, jnp.float32)
    copy = jax.jit(lambda x: x + 1)
    return 2 * block.nbytes / seconds(lambda: copy(block))


def main(_):
    """The command line."""
    shape = presets.get(MODEL.value)
    if LAYERS.value:
        shape = dataclasses.replace(shape, layers=LAYERS.value)
    tokens = tokenizer.tiny()  # its ids are words of the larger vocabulary, too
    model = Llama(shape, None, remat="none", rngs=nnx.Rngs(0))
    weights = sum(leaf.nbytes for leaf in jax.tree.leaves(nnx.state(model)))
    rate = bandwidth()
    print(f"{jax.devices()[0].device_kind}: {rate / 1e9:.0f} GB/s, weights {weights / 1e9:.2f} GB", flush=True)
    rows = []
    for slots in map(int, BATCHES.value):
        config = DecoderConfig(
            slots=slots,
            window=CONTEXT.value,
            max_depth=8,
            stack_tokens=2 * CONTEXT.value,
            max_tokens=1 << 20,
            max_calls=1000,
            tokens_per_step=TOKENS.value,
            steps_per_advance=PASSES,
            calls=True,
            opening=SOLUTION,
            temperature=0.0,
            seed=0,
            draft=True,
        )
        solver = RecursiveDecoder(model, tokens, config)
        state = [decoder.create(model, config, CONTEXT.value, decoder.Memory.empty())]

        def run(solver=solver, config=config, state=state):
            state[0], report = decoder.advance(
                solver._graphdef, solver._words, config, solver._params, solver._tables, state[0]
            )
            return report

        took = seconds(run) / PASSES
        cache = sum(leaf.nbytes for leaf in jax.tree.leaves(state[0].cache))
        least = (weights + cache) / rate
        rows.append({"slots": slots, "seconds": took, "least": least, "share": least / took, "cache_bytes": cache})
        print(f"{slots} slots: {took * 1e3:.2f} ms a pass, memory alone {least * 1e3:.2f} ms, {least / took:.0%}", flush=True)
        del state, solver
    report = {"device": jax.devices()[0].device_kind, "bandwidth": rate, "weights": weights, "rows": rows}
    output = Path(OUTPUT.value)
    output.mkdir(parents=True, exist_ok=True)
    (output / "decode_gpu.json").write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    app.run(main)
