"""How fast problems are solved by recursion: this decoder, what its parts contribute, and the ways of a transformers pipeline.

    python benchmarks/decode.py --workdir=runs/parity-retune-tiny --length=20 --problems=64

All of them run the same weights (the run is exported for transformers) in float32 on the same cores, greedily, on the same
problems. Texts are compared first: a way that writes another text than the plain decoder is marked, and counts only where the
difference is rounding. Compilation is not timed. Every time is the median of `--runs` runs, with the fastest and the slowest.

    one by one        the authors' loop: `generate` for one problem at a time, a caller's context computed anew after a return
    prompt lookup     the same, with transformers' own guessing
    level by level    `generate` for all problems at once, one segment each, contexts computed anew; the best of several batches
    decoder           this project; then without guesses, with the memo, with callers recomputed, with one slot

Writes Markdown and JSON into benchmarks/results. Needs the extra `bench`.
"""

import dataclasses
import json
import statistics
import tempfile
import time
from pathlib import Path

import jax
import numpy as np
from absl import app, flags

from retune_jax import tasks
from retune_jax.checkpoints import exporting, runs
from retune_jax.decoding import RecursiveDecoder
from retune_jax.evaluation import sizes
from retune_jax.models import lora, sharding
from retune_jax.protocol import CallRead, opening, paste, read

WORKDIR = flags.DEFINE_string("workdir", None, "A trained run.", required=True)
LENGTH = flags.DEFINE_integer("length", 20, "Length of the problems.")
PROBLEMS = flags.DEFINE_integer("problems", 64, "How many.")
RUNS = flags.DEFINE_integer("runs", 5, "Runs of each way; a way that takes a minute is run once.")
ONLY = flags.DEFINE_string("only", "", "Only the ways that begin like this, and the decoder, whose text is compared.")
OUTPUT = flags.DEFINE_string("output", "benchmarks/results", "Folder for the results.")
BATCHES = (16, 64, 256)


class Pipeline:
    """The protocol as a program around `transformers.generate`."""

    def __init__(self, folder: str, tokenizer, segment: int):
        import torch
        from transformers import LlamaForCausalLM

        self.torch, self.tokenizer, self.segment = torch, tokenizer, segment
        self.model = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()

    def segments(self, contexts: list[list[int]], **options) -> list[list[int]]:
        """What the model writes behind each context, up to EOS."""
        longest = max(map(len, contexts))
        ids = np.full((len(contexts), longest), self.tokenizer.eos)
        for row, context in zip(ids, contexts):
            row[longest - len(context) :] = context
        ids = self.torch.tensor(ids)
        mask = self.torch.tensor([[0] * (longest - len(c)) + [1] * len(c) for c in contexts])
        with self.torch.no_grad():
            written = self.model.generate(
                ids,
                attention_mask=mask,
                do_sample=False,
                max_new_tokens=self.segment,
                eos_token_id=self.tokenizer.eos,
                pad_token_id=self.tokenizer.eos,
                **options,
            )[:, longest:].tolist()
        return [row[: row.index(self.tokenizer.eos)] if self.tokenizer.eos in row else row for row in written]

    def solve(self, prompts: list[str], batch: int, **options) -> list[list[str]]:
        """All segments of each problem, in the order in which they are written; `batch` problems at a time."""
        texts: list[list[str]] = [[] for _ in prompts]
        for first in range(0, len(prompts), batch):
            stacks = {n: [self.opened(prompts[n])] for n in range(first, min(first + batch, len(prompts)))}
            while stacks:
                written = self.segments([stack[-1] for stack in stacks.values()], **options)
                for number, ids in zip(list(stacks), written):
                    self.turn(stacks[number], ids, texts[number])
                    if not stacks[number] or len(texts[number]) > 1000:
                        del stacks[number]
        return texts

    def opened(self, prompt: str) -> list[int]:
        """The window that a prompt opens."""
        return [self.tokenizer.bos, *self.tokenizer.encode(opening(prompt))]

    def turn(self, stack: list[list[int]], ids: list[int], texts: list[str]):
        """A problem's stack of contexts after the innermost one has written a segment."""
        text = self.tokenizer.decode(ids)
        texts.append(text)
        meaning = read(text)
        stack[-1] = stack[-1] + ids
        if isinstance(meaning, CallRead):
            stack.append(self.opened(meaning.prompt))
            return
        stack.pop()
        if stack:
            stack[-1] = stack[-1] + self.tokenizer.encode(paste(getattr(meaning, "value", "")))


def timed(solve, runs: int) -> tuple[object, list[float]]:
    """What `solve` returns, and seconds of its runs after a first one, which compiles; a run of a minute is the only one."""
    result, times = solve(), []
    while len(times) < runs and sum(times) < 60:
        started = time.perf_counter()
        solve()
        times.append(time.perf_counter() - started)
    return result, times


def main(_):
    """The command line."""
    mesh = sharding.fitting_mesh(-1, 1, 1)
    config, model, tokenizer = runs.load_model(Path(WORKDIR.value), mesh)
    config = config.copy_and_resolve_references().unlock()
    config.eval.lengths, config.eval.problems_per_length = str(LENGTH.value), PROBLEMS.value
    task, rng = tasks.get(config.task), np.random.default_rng(0)
    prompts = [task.question(task.sample(rng, LENGTH.value), config.method) for _ in range(PROBLEMS.value)]
    sized = dataclasses.replace(sizes.for_evaluation(config, tokenizer), memo=0, stack="keep")
    merged = lora.merge(model)

    def decoder(**changes):
        made = RecursiveDecoder(merged, tokenizer, dataclasses.replace(sized, **changes))
        return lambda: made.solve(prompts)

    ways = {
        "decoder": decoder(),
        "decoder, no guesses": decoder(draft=False),
        "decoder, memo": decoder(memo=4096),
        "decoder, callers recomputed": decoder(stack="recompute"),
        "decoder, half the slots": decoder(slots=sized.slots // 2),
    }
    with tempfile.TemporaryDirectory() as folder:
        exporting.export_hf(Path(WORKDIR.value), Path(folder) / "hf")
        pipeline = Pipeline(str(Path(folder) / "hf"), tokenizer, sized.window)
    few = prompts[: max(1, len(prompts) // 16)]
    ways |= {f"level by level, {batch} a batch": lambda batch=batch: pipeline.solve(prompts, batch) for batch in BATCHES}
    ways |= {
        "one by one": lambda: pipeline.solve(few, 1),
        "one by one, prompt lookup": lambda: pipeline.solve(few, 1, prompt_lookup_num_tokens=10),
    }
    expected, rows = None, []
    for name, solve in ways.items():
        if name != "decoder" and not name.startswith(ONLY.value):
            continue
        solved, times = timed(solve, RUNS.value)
        ours = name.startswith("decoder")
        texts = [[text for _, text in result.context.turns()] for result in solved] if ours else solved
        expected = expected or texts
        tokens = sum(len(tokenizer.encode(text)) + 1 for problem in texts for text in problem)
        seconds = {"median": statistics.median(times), "fastest": min(times), "slowest": max(times), "runs": len(times)}
        work = {part: sum(getattr(r.work, part) for r in solved) for part in solved[0].work._fields} if ours else None
        rows.append(
            {
                "way": name,
                "problems": len(texts),
                "same_text": sum(text == other for text, other in zip(texts, expected)),
                "seconds": seconds,
                "problems_per_second": len(texts) / seconds["median"],
                "tokens_per_second": tokens / seconds["median"],
                "work": work,
            }
        )
        print(json.dumps(rows[-1]), flush=True)
    report = {"task": config.task, "length": LENGTH.value, "device": jax.devices()[0].device_kind, "rows": rows}
    output = Path(OUTPUT.value)
    output.mkdir(parents=True, exist_ok=True)
    name = f"decode-{config.task}-{LENGTH.value}"
    (output / f"{name}.json").write_text(json.dumps(report, indent=1) + "\n")
    (output / f"{name}.md").write_text(table(report))
    print(table(report))


def table(report: dict) -> str:
    """The report as Markdown."""
    lines = [
        f"{report['task']} of length {report['length']}, {report['rows'][0]['problems']} problems, {report['device']}",
        "",
        "| | problems/s | generated tokens/s | seconds (fastest - slowest of n runs) | same text |",
        "|---|---|---|---|---|",
    ]
    for row in report["rows"]:
        seconds = row["seconds"]
        spread = f"{seconds['median']:.2f} ({seconds['fastest']:.2f} - {seconds['slowest']:.2f} of {seconds['runs']})"
        rates = f"{row['problems_per_second']:.2f} | {row['tokens_per_second']:.0f}"
        lines.append(f"| {row['way']} | {rates} | {spread} | {row['same_text']} of {row['problems']} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    app.run(main)
