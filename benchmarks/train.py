"""How fast LoRA training goes: packed whole contexts here, against transformers + PEFT on padded split segments.

    python benchmarks/train.py --config=configs/parity.py

The two train the same adapter on the same base from the same prepared training set, in float32 on the same cores, with AdamW.
They see the same problems in different forms. The authors' code makes an example of every segment: all that stands before it,
and the loss on the segment; a batch of examples is padded to its longest. Here a context is one sequence with its segments'
targets, and contexts are packed (data/encode.py). What counts is how many *target* tokens are trained a second: tokens that
the model learns to generate, each counted once.

First, the loss a segment of both on the same contexts is compared; it has to agree to 1e-4. Then steps are timed, without the
first two, which compile or warm up. Ours include the data pipeline; theirs are tokenised beforehand. Their batch is the best
of `--batches`. The contexts beyond twice the trained length that a recipe may replay are left out, for both.

Writes Markdown and JSON into benchmarks/results. Needs the extra `bench`.
"""

import json
import os
import tempfile
import time
from pathlib import Path

import jax
import numpy as np
import peft
import torch
import transformers
from absl import app, flags
from flax import nnx, traverse_util

from retune_jax import cli
from retune_jax.checkpoints import exporting, weights
from retune_jax.checkpoints import peft as peft_files
from retune_jax.data import pipeline
from retune_jax.data.encode import encode
from retune_jax.models import sharding
from retune_jax.models.lora import LoRAParam
from retune_jax.training import loop, loss, optimizer

CONFIG = flags.DEFINE_string("config", "configs/parity.py", "A recipe of the tiny model.")
STEPS = flags.DEFINE_integer("steps", 12, "Timed steps of each.")
BATCHES = flags.DEFINE_list("batches", ["32", "128"], "Examples a batch of transformers + PEFT.")
OUTPUT = flags.DEFINE_string("output", "benchmarks/results", "Folder for the results.")
FIELDS = ("tokens", "targets", "weights", "segment_ids", "positions")
CORES = len(os.sched_getaffinity(0))
IGNORED = -100  # a label that transformers leaves out


def split(contexts: list[dict], tokenizer) -> list[tuple[list[int], int]]:
    """The authors' examples: of each segment, all tokens up to its EOS, and how many of them it has."""
    examples = []
    for context in contexts:
        ids = [tokenizer.bos]
        for before, generated in zip(context["inputs"], context["outputs"], strict=True):
            ids, written = ids + tokenizer.encode(before), tokenizer.encode(generated)
            examples.append(([*ids, *written, tokenizer.eos], len(written) + 1))
            ids = ids + written
    return examples


def padded(examples: list[tuple[list[int], int]], pad: int):
    """Ids, attention mask and labels of a batch, as long as its longest example."""
    longest = max(len(ids) for ids, _ in examples)
    ids_BT = torch.full((len(examples), longest), pad)
    labels_BT, mask_BT = torch.full_like(ids_BT, IGNORED), torch.zeros_like(ids_BT)
    for row, (ids, targets) in enumerate(examples):
        ids_BT[row, : len(ids)] = torch.tensor(ids)
        mask_BT[row, : len(ids)] = 1
        labels_BT[row, len(ids) - targets : len(ids)] = torch.tensor(ids[-targets:])
    return ids_BT, mask_BT, labels_BT


def their_loss(model, batch):
    """Cross-entropy summed over each segment and averaged over segments, as the authors have it."""
    ids_BT, mask_BT, labels_BT = batch
    logits_BTV = model(input_ids=ids_BT, attention_mask=mask_BT).logits[:, :-1]
    targets = labels_BT[:, 1:].reshape(-1)
    summed = torch.nn.functional.cross_entropy(
        logits_BTV.reshape(len(targets), -1), targets, ignore_index=IGNORED, reduction="sum"
    )
    return summed / len(ids_BT)


def time_theirs(model, examples, tokenizer, batch: int, rate: float) -> dict:
    """Trains on padded batches of examples in random order."""
    order = np.random.default_rng(0).permutation(len(examples))
    trained = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=rate)
    counts = {"target_tokens": 0, "real_tokens": 0, "tokens": 0}
    for step in range(STEPS.value + 2):
        if step == 2:
            start = time.perf_counter(), time.process_time()
        chosen = [examples[n] for n in np.take(order, range(step * batch, (step + 1) * batch), mode="wrap")]
        ids_BT, mask_BT, labels_BT = padded(chosen, tokenizer.eos)
        their_loss(model, (ids_BT, mask_BT, labels_BT)).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        trained.step()
        trained.zero_grad()
        if step >= 2:
            counts["target_tokens"] += int((labels_BT != IGNORED).sum())
            counts["real_tokens"] += int(mask_BT.sum())
            counts["tokens"] += ids_BT.numel()
    return _rates(f"transformers + PEFT, {batch} segments, padded", counts, start)


def time_ours(config, graphdef, params, frozen, batches) -> dict:
    """Trains on packed rows, as `train` does."""
    adamw = optimizer.make_optimizer(config.train)
    state = jax.tree.map(jax.numpy.copy, {"params": params, "optimizer": jax.jit(adamw.init)(params)})
    step_fn = loss.make_step(graphdef, adamw, accumulate=config.train.accumulate, shardings=None)
    counts = {"target_tokens": 0, "real_tokens": 0, "tokens": 0}
    for step in range(STEPS.value + 2):
        if step == 2:
            start = time.perf_counter(), time.process_time()
        batch = jax.device_put(next(batches))
        state, metrics = step_fn(state, frozen, batch, jax.random.key(step))
        if step >= 1:
            metrics = jax.device_get(metrics)
        if step >= 2:
            counts["target_tokens"] += int(metrics["target_tokens"])
            counts["real_tokens"] += int(metrics["tokens"])
            counts["tokens"] += batch["tokens_BT"].size
    rows, length = batch["tokens_BT"].shape
    return _rates(f"retune_jax, {rows} rows of {length} tokens, packed", counts, start)


def _rates(name: str, counts: dict, start: tuple[float, float]) -> dict:
    seconds, busy = time.perf_counter() - start[0], time.process_time() - start[1]
    rates = {f"{key}_per_s": value / seconds for key, value in counts.items()}
    return {"name": name, "seconds": seconds, **rates, "target_tokens_per_cpu_s": counts["target_tokens"] / busy}


def main(argv):
    """The command line."""
    del argv
    torch.set_num_threads(CORES)
    config = cli.configuration(CONFIG.value, []).unlock()
    config.data.replay, config.train.loss, config.train.optimizer, config.train.warmup = 0.0, "sum", "adamw", 0
    config.train.schedule = "constant"
    base, lora = weights.load_base(config.base, config.model), weights.lora_config(config.lora)
    how = {"remat": config.train.remat, "context_length": config.data.context_length, "attention": config.train.attention}
    model = weights.assemble(base, lora, **how, seed=0, mesh=sharding.make_mesh(1, 1, 1))
    graphdef, adapter, frozen = nnx.split(model, LoRAParam, ...)
    adapter, frozen = nnx.to_pure_dict(adapter), nnx.to_pure_dict(frozen)
    rng = np.random.default_rng(0)  # B is not zero, so that the losses show the adapter
    adapter = jax.tree.map(lambda x: jax.numpy.asarray(rng.normal(0, 0.02, x.shape), x.dtype), adapter)

    source = loop.source(config)
    contexts = [source[int(n)] for n in rng.choice(len(source), min(2000, len(source)), replace=False)]
    examples = split(contexts, base.tokenizer)
    with tempfile.TemporaryDirectory() as folder:
        exporting.write_hf(base, None, {}, Path(folder) / "base")
        (Path(folder) / "adapter").mkdir()
        flat = {name: np.asarray(x) for name, x in traverse_util.flatten_dict(adapter, sep="/").items()}
        peft_files.write(Path(folder) / "adapter", flat, lora, base.shape.layers, "base")
        theirs = transformers.AutoModelForCausalLM.from_pretrained(Path(folder) / "base", dtype=torch.float32)
        theirs = peft.PeftModel.from_pretrained(theirs, Path(folder) / "adapter", is_trainable=True)

    # The same loss a segment, from the same weights, of the same contexts.
    few = contexts[:8]
    with torch.no_grad():
        expected = float(their_loss(theirs, padded(split(few, base.tokenizer), base.tokenizer.eos)))
    encoded, length = [encode(base.tokenizer, context, "sum") for context in few], config.data.sequence_length
    batch = {f"{name}_BT": np.zeros((len(few), length), np.float32 if name == "weights" else np.int32) for name in FIELDS}
    for row, context in enumerate(encoded):
        for name in ("tokens", "targets", "weights"):
            batch[f"{name}_BT"][row, : len(context["tokens_T"])] = context[f"{name}_T"]
        batch["segment_ids_BT"][row, : len(context["tokens_T"])] = 1
    batch["positions_BT"][:] = range(length)
    batch["segments_B"] = np.array([context["segments"] for context in encoded])
    summed = jax.jit(lambda batch: loss.sums(adapter, frozen, batch, None, graphdef=graphdef)[0])(batch)
    found = float(summed) / sum(batch["segments_B"])
    assert abs(found - expected) < 1e-4 * expected, (found, expected)

    shape = {"sequence_length": config.data.sequence_length, "context_length": config.data.context_length}
    shape |= {"rows": config.train.rows, "weigh": "sum", "seed": 0}
    batches = pipeline.train_batches(contexts, base.tokenizer, **shape)
    ours = time_ours(config, graphdef, adapter, frozen, batches)
    batches.close()
    results = [time_theirs(theirs, examples, base.tokenizer, int(b), config.train.learning_rate) for b in BATCHES.value]
    times = {
        key: ours[key] / max(result[key] for result in results) for key in ("target_tokens_per_s", "target_tokens_per_cpu_s")
    }
    report = {
        "config": CONFIG.value,
        "model": config.model,
        "cores": CORES,
        "steps": STEPS.value,
        "versions": {lib.__name__: lib.__version__ for lib in (jax, torch, transformers, peft)},
        "loss_per_segment": {"retune_jax": found, "transformers + PEFT": expected},
        "rows": [ours, *results],
        "times_the_best_of_theirs": times,
    }
    lines = ["| tokens a second | target | real | with padding | target, of CPU time |", "|---|---|---|---|---|"]
    keys = ("target_tokens_per_s", "real_tokens_per_s", "tokens_per_s", "target_tokens_per_cpu_s")
    for row in report["rows"]:
        rates = (f"{row[key]:,.0f}" for key in keys)
        lines.append(f"| {row['name']} | {' | '.join(rates)} |")
    text = "\n".join(
        [
            f"LoRA training of {config.model}, {CONFIG.value}, float32, {CORES} cores, {STEPS.value} steps each. "
            f"Loss a segment on the same contexts: {found:.6f} and {expected:.6f}.\n",
            *lines,
            f"\n{times['target_tokens_per_s']:.1f} times the target tokens a second of the best of theirs; of CPU time, "
            f"which other work on the machine changes less, {times['target_tokens_per_cpu_s']:.1f} times.\n",
        ]
    )
    folder = Path(OUTPUT.value)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "train.json").write_text(json.dumps(report, indent=1) + "\n")
    (folder / "train.md").write_text(text)
    print(text)


if __name__ == "__main__":
    app.run(main)
