"""How well LoRA training of a large model uses an accelerator: tokens a second, model FLOPs utilisation (MFU), peak memory.

    python benchmarks/train_gpu.py --shape=llama_7b
    python benchmarks/train_gpu.py --shape=tiny --rows=4 --length=256     # shows on a CPU that it runs

Random weights of the shape, the paper's adapter (rank 64 on q, k, v, o), synthetic contexts of 64 to 512 tokens packed into
rows, the step that `train` runs. Each variant runs in a process of its own, so that its peak of memory is its own: with and
without remat, with the base in its dtype and in int8, and with the attentions that the machine has.

MFU counts what has to be computed, and not what remat computes again: 4 FLOPs a frozen weight and token (forward, and backward
to the activations; there is no gradient of the base), 6 an adapter's weight and token, and for attention 12 · layers · width
for each pair of a token and one that it sees. The embedding is looked up, not multiplied. Divided by the device's peak rate:
`--peak_tflops`, or that of the table below, or else (on a CPU) the rate of a large product, measured.

The peak of memory is the process's, since a device's counter cannot be set back: where the drawing of random weights took more
than the steps after it, which a base from disk does not take, the figure is an upper bound, and the table says so.

Writes Markdown and JSON into benchmarks/results.
"""

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags
from flax import nnx

from retune_jax import config as recipes
from retune_jax.checkpoints import weights
from retune_jax.checkpoints.runs import trained
from retune_jax.models import presets, sharding
from retune_jax.training import loss, memory, optimizer

SHAPE = flags.DEFINE_string("shape", "llama_7b", "A preset of models/presets.py.")
ROWS = flags.DEFINE_integer("rows", 8, "Rows a step.")
ACCUMULATE = flags.DEFINE_integer("accumulate", 8, "Micro-batches a step.")
LENGTH = flags.DEFINE_integer("length", 2048, "Tokens a row.")
STEPS = flags.DEFINE_integer("steps", 5, "Timed steps.")
PEAK = flags.DEFINE_float("peak_tflops", None, "The device's peak rate in the model's dtype, in TFLOP/s.")
VARIANTS = flags.DEFINE_list("variants", None, "These, each REMAT/QUANTIZE/ATTENTION, not all that the machine can run.")
VARIANT = flags.DEFINE_string("variant", None, "Only this one, as REMAT,QUANTIZE,ATTENTION; prints its row as JSON.")
OUTPUT = flags.DEFINE_string("output", "benchmarks/results", "Folder for the results.")

# Dense, without sparsity, in bfloat16, by the makers' data sheets: TFLOP/s by what `device_kind` begins with.
PEAKS = {"NVIDIA H200": 989, "NVIDIA H100": 989, "NVIDIA A100": 312, "TPU v5p": 459, "TPU v5e": 197, "TPU v4": 275}


def variants() -> list[str]:
    """What is measured. This process asks no device, whose memory JAX would take at once; the variants' processes do."""
    attentions = ["xla", "flash"] + (["cudnn"] if shutil.which("nvidia-smi") else [])
    found = [f"full,none,{attention}" for attention in attentions]
    return [*found, *(f"{choice},{attentions[-1]}" for choice in ("dots,none", "none,none", "full,int8"))]


def packed(rows: int, length: int, vocabulary: int) -> tuple[dict, int]:
    """Rows of contexts of random tokens and lengths, and how many pairs of a token and one that it sees there are."""
    rng = np.random.default_rng(0)
    ids_BT, positions_BT = np.zeros((rows, length), np.int32), np.zeros((rows, length), np.int32)
    pairs = 0
    for row in range(rows):
        start, number = 0, 1
        while start < length:
            size = min(int(rng.integers(64, 513)), length - start)
            ids_BT[row, start : start + size], positions_BT[row, start : start + size] = number, range(size)
            pairs += size * (size + 1) // 2
            start, number = start + size, number + 1
    tokens_BT = rng.integers(0, vocabulary, (rows, length), dtype=np.int32)
    batch = {"tokens_BT": tokens_BT, "targets_BT": np.roll(tokens_BT, -1, 1), "segment_ids_BT": ids_BT}
    batch |= {"positions_BT": positions_BT, "weights_BT": (rng.random((rows, length)) < 0.5).astype(np.float32)}
    return batch | {"segments_B": ids_BT.max(1)}, pairs


def measure(remat: str, held: str, attention: str) -> dict:
    """One variant on the first device."""
    config = recipes.recipe(f"model={SHAPE.value}", task="addition").unlock()
    config.lora.update({"rank": 64, "alpha": 64.0, "dropout": 0.05, "targets": "q,k,v,o"})
    config.quantize = held
    config.train.update({"remat": remat, "attention": attention, "rows": ROWS.value, "accumulate": ACCUMULATE.value})
    config.data.update({"sequence_length": LENGTH.value, "context_length": min(LENGTH.value, 512)})
    shape, lora = presets.get(SHAPE.value), weights.lora_config(config.lora)
    mesh = jax.make_mesh((1, 1, 1), sharding.AXES, axis_types=(jax.sharding.AxisType.Auto,) * 3, devices=jax.devices()[:1])
    how = {"remat": remat, "context_length": config.data.context_length, "attention": attention, "quantize": held}
    model = weights.assemble(weights.Base(shape, None, None), lora, **how, seed=0, mesh=mesh)
    graphdef, params, frozen = nnx.split(model, trained(lora), ...)
    params, frozen = nnx.to_pure_dict(params), nnx.to_pure_dict(frozen)
    adamw = optimizer.make_optimizer(config.train)
    state = {"params": params, "optimizer": jax.jit(adamw.init)(params)}
    step_fn = loss.make_step(graphdef, adamw, accumulate=ACCUMULATE.value, shardings=None)
    batch, pairs = packed(ROWS.value, LENGTH.value, shape.vocab_size)
    batch = jax.device_put(batch, jax.devices()[0])
    jax.block_until_ready((state, frozen))
    drawing = (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use", 0)
    for step in range(STEPS.value + 2):  # the first compiles, the second warms up
        if step == 2:
            jax.block_until_ready(state)
            start = time.perf_counter()
        state, metrics = step_fn(state, frozen, batch, jax.random.key(step))
    jax.block_until_ready(state)
    seconds = (time.perf_counter() - start) / STEPS.value
    assert np.isfinite(float(metrics["loss"]))

    inner = shape.heads * shape.head_width
    layer = 2 * shape.width * (inner + shape.kv_heads * shape.head_width) + 3 * shape.width * shape.hidden
    multiplied = shape.layers * layer + shape.width * shape.vocab_size
    tokens, adapter = ROWS.value * LENGTH.value, sum(x.size for x in jax.tree.leaves(params))
    flops = (4 * multiplied + 6 * adapter) * tokens + 12 * shape.layers * inner * pairs
    stats = jax.devices()[0].memory_stats() or {}
    peak = stats.get("peak_bytes_in_use") or memory.peak(config, shape).total
    rate = peak_rate()
    return {
        "remat": remat,
        "base": held,
        "attention": attention,
        "tokens_per_s": tokens / seconds,
        "step_s": seconds,
        "tflops": flops / seconds / 1e12,
        "mfu": flops / seconds / rate,
        "peak_gib": peak / 2**30,
        "peak_of_drawing_gib": drawing / 2**30,
        "peak_is": "measured" if "peak_bytes_in_use" in stats else "of the compiled program",
        "device": jax.devices()[0].device_kind,
        "peak_tflops": rate / 1e12,
    }


def peak_rate() -> float:
    """FLOP/s of the device at its best."""
    kind = jax.devices()[0].device_kind
    if PEAK.value:
        return PEAK.value * 1e12
    if known := next((rate for name, rate in PEAKS.items() if kind.startswith(name)), None):
        return known * 1e12
    x = jnp.ones((2048, 2048), presets.get(SHAPE.value).dtype)
    product = jax.jit(lambda x: x @ x)
    product(x).block_until_ready()
    times = []
    for _ in range(5):
        start = time.perf_counter()
        product(x).block_until_ready()
        times.append(time.perf_counter() - start)
    return 2 * 2048**3 / min(times)


def main(argv):
    """The command line."""
    del argv
    if VARIANT.value:
        print(json.dumps(measure(*VARIANT.value.split(","))))
        return
    rows, failed = [], []
    for variant in [name.replace("/", ",") for name in VARIANTS.value or ()] or variants():
        command = [sys.executable, __file__, *sys.argv[1:], f"--variant={variant}"]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:  # most often memory: said, and the others go on
            failed.append(f"{variant}: {done.stderr.strip().splitlines()[-1][:200]}")
            print(f"failed: {failed[-1]}", file=sys.stderr)
            continue
        rows.append(json.loads(done.stdout.splitlines()[-1]))
        print(rows[-1], file=sys.stderr)
        text = write(rows, failed)
    if not rows:
        sys.exit("no variant ran")
    print(text)


def write(rows: list[dict], failed: list[str]) -> str:
    """The table so far, also into files."""
    lines = ["| remat | base held in | attention | tokens/s | TFLOP/s | MFU | peak GiB |", "|---|---|---|---|---|---|---|"]
    for row in rows:
        held = "its dtype" if row["base"] == "none" else row["base"]
        lines.append(
            f"| {row['remat']} | {held} | {row['attention']} | {row['tokens_per_s']:,.0f} | {row['tflops']:.3g} | "
            f"{row['mfu']:.1%} | {'at most ' * (row['peak_of_drawing_gib'] == row['peak_gib'])}{row['peak_gib']:.2f} |"
        )
    first = rows[0]
    text = "\n".join(
        [
            f"LoRA (rank 64 on q, k, v, o) of {SHAPE.value} on {first['device']}, {ROWS.value} rows of {LENGTH.value} tokens "
            f"in {ACCUMULATE.value} micro-batches; peak rate {first['peak_tflops']:.3g} TFLOP/s; memory {first['peak_is']}.\n",
            *lines,
            *(f"\nDid not run: {line}" for line in failed),
        ]
    )
    folder = Path(OUTPUT.value)
    folder.mkdir(parents=True, exist_ok=True)
    stem = f"train_gpu_{SHAPE.value}"
    (folder / f"{stem}.json").write_text(json.dumps({"rows": rows, "failed": failed}, indent=1) + "\n")
    (folder / f"{stem}.md").write_text(text + "\n")
    return text


if __name__ == "__main__":
    app.run(main)
