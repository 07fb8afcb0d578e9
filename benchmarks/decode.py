"""How fast problems are solved by recursion: this decoder, what its parts contribute, and the ways of a transformers pipeline.

    python benchmarks/decode.py --workdir=runs/parity-retune-tiny --length=20 --problems=64
    python benchmarks/decode.py --workdir=runs/parity-retune-tiny --length=20 --problems=64 --only="level by level, kept"

All of them run the same weights (the run is exported for transformers) in float32 on the same cores, greedily, on the same
problems and within the same limits. Texts are compared first: of each way it is said how many problems it writes word for word
as the decoder does (rounding may turn a near tie). Compilation is not timed. Every time is the median of `--runs` runs, with
the fastest and the slowest; a way that takes over a minute is run once.

    one by one        the authors' loop: `generate` for one problem at a time, a caller's context computed anew after a return;
                      with transformers' own guessing; or with callers' keys and values kept
    level by level    all problems at once, one segment each, computed anew or kept (pipeline.py), in batches of several sizes
    decoder           this project, memo off; then without guesses, with the memo, with callers recomputed, with every segment's
                      log-probability, and with a quarter of the slots, refilled as problems end or only when all have ended

`--true_task` takes any run's weights and has all ways write the true solutions of a task (true_text.py, and the pipeline's
`given`): the passes and choices are made as ever, and the true tokens taken. So problems can be timed that no run solves.

The share is of the machine's product rate: the operations that the text takes where every token is fed once, over the
seconds, over what a large float32 matrix product reaches.

Each way is written into benchmarks/results/decode.json, and from all of them decode.md and the picture of growth, as soon as it
is measured, so that the benchmark can be run in pieces; a way that is there is measured again with --again. Needs the extra
`bench`.
"""

import dataclasses
import hashlib
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags
from decode_tables import growth, table
from flax import nnx
from true_text import TrueText

from retune_jax import config as recipes
from retune_jax import disk, tasks
from retune_jax.checkpoints import exporting, runs, weights
from retune_jax.decoding import RecursiveDecoder, Result
from retune_jax.evaluation import sizes
from retune_jax.models import lora, sharding
from retune_jax.models.llama import LlamaConfig
from retune_jax.training import flops

WORKDIR = flags.DEFINE_string("workdir", None, "A trained run.", required=True)
LENGTH = flags.DEFINE_string("length", "20", "Length of the problems, or several, such as 1:40, in turn.")
PROBLEMS = flags.DEFINE_integer("problems", 64, "How many.")
RUNS = flags.DEFINE_integer("runs", 5, "Runs of each way; a way that takes over a minute is run once.")
FEW = flags.DEFINE_integer("few", 0, "Problems of the ways that take one by one; 0: a sixteenth.")
TRUE_TASK = flags.DEFINE_string("true_task", "", "A task whose true solutions are written in the place of the model's text.")
ONLY = flags.DEFINE_multi_string("only", [""], "Only the way of this name, or those that begin like this; may be repeated.")
BATCHES = flags.DEFINE_list("batches", ["16", "32", "64"], "Problems of a batch, level by level.")
AGAIN = flags.DEFINE_bool("again", False, "Measure ways that have been measured, too.")
OUTPUT = flags.DEFINE_string("output", "benchmarks/results", "Folder for the results.")
MINUTE = 60.0


def main(_):
    """The command line."""
    config, model, tokenizer = runs.load_model(Path(WORKDIR.value), sharding.fitting_mesh(-1, 1, 1))
    task, rng, lengths = tasks.get(TRUE_TASK.value or config.task), np.random.default_rng(0), recipes.read_lengths(LENGTH.value)
    problems = [task.sample(rng, lengths[n % len(lengths)]) for n in range(PROBLEMS.value)]
    prompts = [task.question(problem, config.method) for problem in problems]
    trees = [task.written(problem, config.method) for problem in problems] if TRUE_TASK.value else []
    given = [[text for _, text in tree.turns()] for tree in trees] or None
    config = config.copy_and_resolve_references().unlock()
    config.task = TRUE_TASK.value or config.task
    config.eval.lengths, config.eval.problems_per_length = str(max(lengths)), 1
    sized = sizes.for_problems(config, tokenizer, problems)
    sized = dataclasses.replace(sized, memo=0, stack="keep", slots=min(sized.slots, len(problems)))
    merged, report = lora.merge(model), Report(Path(OUTPUT.value))
    case = report.case(task.name, LENGTH.value, len(prompts), fingerprint(merged) + ", true text" * bool(given))
    ours_model = TrueText(merged, tokenizer, trees) if given else merged

    def decoder(parts: int = 1, **changes) -> Callable[[], list[Result]]:
        made = []

        def solve():
            made[:] = made or [RecursiveDecoder(ours_model, tokenizer, dataclasses.replace(sized, **changes))]
            share = len(prompts) // parts
            return [
                result for first in range(0, len(prompts), share) for result in made[0].solve(prompts[first : first + share])
            ]

        return solve

    quarter = max(1, sized.slots // 4)
    ours = {
        "decoder": decoder(),
        "decoder, no guesses": decoder(draft=False),
        "decoder, memo": decoder(memo=1 << 14),
        "decoder, callers recomputed": decoder(stack="recompute"),
        "decoder, traced": decoder(trace=True),
        f"decoder, {quarter} slots": decoder(slots=quarter),
        f"decoder, {quarter} slots, not refilled": decoder(slots=quarter, parts=4),
    }
    pipeline = None

    def theirs(few: int, batch: int, **options) -> Callable[[], list[list[str]]]:
        def solve():
            nonlocal pipeline
            if pipeline is None:
                from pipeline import Pipeline

                with tempfile.TemporaryDirectory() as folder:
                    exporting.export_hf(Path(WORKDIR.value), Path(folder) / "hf")
                    pipeline = Pipeline(str(Path(folder) / "hf"), tokenizer, sized)
            return pipeline.solve(prompts[:few], batch, given=given, **options)

        solve.first = lambda: theirs(1, 1, **options)()  # loads, and lets the libraries settle
        return solve

    few, batches = FEW.value or max(1, len(prompts) // 16), [int(batch) for batch in BATCHES.value]
    ways = ours | {
        "one by one": theirs(few, 1),
        "one by one, prompt lookup": theirs(few, 1, prompt_lookup_num_tokens=10),
        "one by one, kept": theirs(few, 1, keep=True),
    }
    if given:
        del ways["one by one, prompt lookup"]  # which guesses what is not taken
    ways |= {f"level by level, {batch} a batch": theirs(len(prompts), batch) for batch in batches}
    ways |= {f"level by level, kept, {batch} a batch": theirs(len(prompts), batch, keep=True) for batch in batches}
    if "texts" not in case:
        results = ours["decoder"]()
        shape = weights.load_base(config.base, config.model).shape
        case |= {
            "right": sum(task.grade(p, config.method, r.text) for p, r in zip(problems, results) if r.status == "ok"),
            "statuses": {status: sum(r.status == status for r in results) for status in sorted({r.status for r in results})},
            "texts": [digest(texts_of(result)) for result in results],
            "tokens": [result.tokens for result in results],
            "operations": [operations(result, tokenizer, shape) for result in results],
        }
        report.write()
    for name, solve in ways.items():
        asked = any(name == only if only in ways else name.startswith(only) for only in ONLY.value)
        if not asked or (name in case["rows"] and not AGAIN.value):
            continue
        row = measured(solve, RUNS.value)
        solved = row.pop("solved")
        texts = [texts_of(one) if isinstance(one, Result) else one for one in solved]
        count, median = len(texts), row["seconds"]["median"]
        row |= {
            "problems": count,
            "same_text": sum(digest(text) == expected for text, expected in zip(texts, case["texts"])),
            "problems_per_second": count / median,
            "tokens_per_second": sum(case["tokens"][:count]) / median,
            "share": sum(case["operations"][:count]) / median / (rate := report.product_rate()),
            "product_rate": rate,
        }
        if isinstance(solved[0], Result):
            row["work"] = {part: sum(getattr(one.work, part) for one in solved) for part in solved[0].work._fields}
        case["rows"][name] = row
        report.write()
        print(json.dumps({"way": name} | row), flush=True)
    print(table(case))


class Report:
    """What has been measured so far, on disk."""

    def __init__(self, folder: Path):
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / "decode.json"
        self.cases = json.loads(path.read_text()) if path.exists() else []

    def case(self, task: str, length: str, problems: int, weights: str) -> dict:
        """The case, as far as it has been measured with these weights."""
        named = {"task": task, "length": length, "problems": problems}
        known = [case for case in self.cases if named.items() <= case.items()]
        if known and known[0]["weights"] == weights:
            return known[0]
        self.cases = [case for case in self.cases if case not in known]
        self.cases.append(named | {"weights": weights, "device": f"{jax.devices()[0].device_kind}, {os.cpu_count()} cores"})
        self.cases[-1]["rows"] = {}
        return self.cases[-1]

    def product_rate(self) -> float:
        """The machine's: the best that any way has met."""
        return max([product_rate(), *(row["product_rate"] for case in self.cases for row in case["rows"].values())])

    def write(self):
        """The files."""
        done = [case for case in self.cases if "texts" in case]
        with disk.replacing(self.folder / "decode.json") as fresh:
            fresh.write_text(json.dumps(done, separators=(",", ":")).replace('{"task"', '\n{"task"') + "\n")
        with disk.replacing(self.folder / "decode.md") as fresh:
            fresh.write_text("\n".join(table(case) for case in done if case["rows"]))
        growth(done, self.folder / "decode.png")


def measured(solve: Callable[[], Sequence], runs: int) -> dict:
    """What `solve` returns, and its times after a first run, which compiles."""
    solved = getattr(solve, "first", solve)()
    seconds, processor = [], []
    while len(seconds) < runs and max(seconds, default=0) < MINUTE:
        used, started = time.process_time(), time.perf_counter()
        solved = solve()
        seconds.append(time.perf_counter() - started)
        processor.append(time.process_time() - used)
    spread = {"median": statistics.median(seconds), "fastest": min(seconds), "slowest": max(seconds), "runs": len(seconds)}
    return {"solved": solved, "seconds": spread, "processor_seconds": statistics.median(processor)}


def texts_of(result: Result) -> list[str]:
    """All segments of a problem, in the order in which they were written."""
    return [text for _, text in result.context.turns()]


def digest(texts: list[str]) -> str:
    """Eight characters that stand for a problem's segments."""
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()[:8]


def fingerprint(model) -> str:
    """Eight characters that stand for weights."""
    hashed = hashlib.sha256()
    for leaf in jax.tree.leaves(nnx.state(model)):
        hashed.update(np.asarray(leaf).tobytes())
    return hashed.hexdigest()[:8]


def operations(result: Result, tokenizer, shape: LlamaConfig) -> float:
    """Floating-point operations of a problem's text where every token is fed once: products with weights, and attention."""
    logits = shape.vocab_size * shape.width
    layers = flops.multiplied(shape) - logits
    total = 0
    for context in result.context.walk():
        written = sum(len(tokenizer.encode(text)) + 1 for text in context.outputs())
        length = 1 + written - len(context.segments) + sum(len(tokenizer.encode(text)) for text in context.inputs())
        pairs = length * (length + 1) // 2
        total += 2 * (layers * length + logits * written) + 4 * shape.layers * shape.heads * shape.head_width * pairs
    return total


def product_rate(size: int = 1536) -> float:
    """Operations a second that a large float32 matrix product reaches on this machine: the best of several."""
    matrix, times = jnp.ones((size, size), jnp.float32), []
    product = jax.jit(lambda a: a @ a)
    for _ in range(6):
        started = time.perf_counter()
        product(matrix).block_until_ready()
        times.append(time.perf_counter() - started)
    return 2 * size**3 / min(times)


if __name__ == "__main__":
    app.run(main)
