"""Large shapes on one GPU: how near a pass comes to what the memory can deliver, and how far ahead of the authors' loop it is.

    python benchmarks/decode_gpu.py [--model=llama_7b] [--layers=32] [--tokens=8] [--context=512] [--task=addition --length=20]

**A pass** has to read every weight once and the keys and values of every context once. For batches of 1, 8, 32 and 64 slots,
its time is put against (weight bytes + key and value bytes) / bandwidth, where the bandwidth is what copies of 1 GiB, one after
another in one program, reach on the same device.

**Problems**: as many as there are slots are solved, and the authors' loop solves one: a problem at a time, a token a pass, the
window of a caller computed anew after every return. That is `transformers.generate` where torch has CUDA, else the same
schedule in JAX. The weights are random, since their values do not change the time; the text is that of true solutions
(true_text.py), so that calls, returns and guesses are those of a model that has learned the task.

Most of its time goes into compiling `advance`, for each number of slots once for the pass and once for each length of windows
that the problems take (two for addition of 15 digits); with JAX_COMPILATION_CACHE_DIR set, a second run is spared that. Every
line says after how many seconds it came, and what is measured is written at once. On a CPU it runs with
--model=tiny --layers=1 --batches=1,2 and says nothing of a GPU.
"""

import dataclasses
import json
import statistics
import time
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags
from flax import nnx
from true_text import TrueText

from retune_jax import config as recipes
from retune_jax import tasks, tokenizer
from retune_jax.decoding import DecoderConfig, RecursiveDecoder, decoder
from retune_jax.decoding.reading import Tables, Words
from retune_jax.errors import UserError
from retune_jax.evaluation import sizes
from retune_jax.models import presets
from retune_jax.models.llama import Llama, LlamaConfig, apart
from retune_jax.protocol import SOLUTION, Context

MODEL = flags.DEFINE_string("model", "llama_7b", "A shape of models/presets.py.")
LAYERS = flags.DEFINE_integer("layers", 0, "Layers, where not the shape's own.")
BATCHES = flags.DEFINE_list("batches", ["1", "8", "32", "64"], "Slots.")
TOKENS = flags.DEFINE_integer("tokens", 8, "Tokens of a slot that a pass takes.")
CONTEXT = flags.DEFINE_integer("context", 512, "Length of the windows of which a pass is timed.")
TASK = flags.DEFINE_string("task", "addition", "The task of the problems.")
LENGTH = flags.DEFINE_integer("length", 20, "Their length.")
LOOP = flags.DEFINE_enum("loop", "auto", ["auto", "transformers", "jax"], "What runs the authors' loop.")
RUNS = flags.DEFINE_integer("runs", 10, "Runs of a pass; the median counts. Problems are solved three times.")
OUTPUT = flags.DEFINE_string("output", "benchmarks/results", "Folder for the results.")
PASSES = 8  # of an advance
COPIES = 8  # of 1 GiB
BLOCK = 64  # the loop in JAX compiles a prompt's length in steps of so many tokens


def seconds(run, runs: int, warm: int = 2) -> float:
    """The median time of a run, after some that do not count."""
    times = []
    for _ in range(runs + warm):
        started = time.perf_counter()
        jax.block_until_ready(run())
        times.append(time.perf_counter() - started)
    return statistics.median(times[warm:])


def bandwidth() -> float:
    """Bytes a second, read and written, of copies on the device, made in one program: no start of one, no allocation counts."""
    block = [jnp.zeros(1 << 28, jnp.float32)]  # 1 GiB, far more than a cache holds

    @partial(jax.jit, donate_argnums=0)
    def copies(block):
        # Each adds what the one before has not known, so that none can be left out.
        return jax.lax.fori_loop(0, COPIES, lambda number, block: block + number, block)

    def run():
        block[0] = copies(block[0])
        return block[0]

    return COPIES * 2 * block[0].nbytes / seconds(run, 3, warm=1)


def a_pass(model: nnx.Module, tokens, slots: int) -> tuple[float, int]:
    """Seconds of a pass, and the bytes of all keys and values that it reads."""
    config = DecoderConfig(
        slots=slots,
        window=CONTEXT.value,
        max_depth=8,
        stack_tokens=CONTEXT.value,
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
    graphdef, params = nnx.split(model)
    words, tables = Words.of(tokens, config.opening), Tables.of(list(tokens.pieces))
    state = [decoder.create(model, config, CONTEXT.value, decoder.Memory.empty())]

    def run():
        state[0], report = decoder.advance(graphdef, words, config, params, tables, state[0])
        return report

    return seconds(run, RUNS.value) / PASSES, sum(leaf.nbytes for leaf in jax.tree.leaves(state[0].cache))


def problems(slots: int) -> tuple[list, list[Context]]:
    """Problems of the task, and their true trees."""
    task, rng = tasks.get(TASK.value), np.random.default_rng(0)
    drawn = [task.sample(rng, LENGTH.value) for _ in range(slots)]
    return drawn, [task.written(problem, "retune") for problem in drawn]


def solving(model: nnx.Module, tokens, slots: int) -> float:
    """Problems a second of the decoder."""
    drawn, trees = problems(slots)
    config = recipes.recipe("", task=TASK.value).unlock()
    config.eval.lengths, config.eval.problems_per_length = str(LENGTH.value), 1
    config.decode.update({"slots": slots, "tokens_per_step": TOKENS.value, "stack": "auto", "memo": 0})
    solver = RecursiveDecoder(TrueText(model, tokens, trees), tokens, sizes.for_problems(config, tokens, drawn))
    prompts = [tree.prompt for tree in trees]
    if [result.context for result in solver.solve(prompts)] != trees:
        raise AssertionError("the decoder did not write the true text")
    return slots / seconds(lambda: len(solver.solve(prompts)), 3, warm=0)


def segments(tokens) -> list[tuple[list[int], int]]:
    """What the authors' loop does for one problem: (the window, tokens written behind it, EOS counted), one after the other."""
    (tree,) = problems(1)[1]
    encoded = (([tokens.bos, *tokens.encode(window)], tokens.encode(text)) for window, text in tree.turns(SOLUTION))
    return [(window, len(written) + 1) for window, written in encoded]


def loop_in_jax(model: nnx.Module, tokens) -> float:
    """Problems a second of the authors' loop, in JAX: a window at once, then token by token, each looked at by the host."""
    graphdef, params = nnx.split(model)
    turns = segments(tokens)
    longest = -(-(max(len(window) + count for window, count in turns) + BLOCK) // BLOCK) * BLOCK

    @partial(jax.jit, donate_argnames=("cache",))
    def feed(params, ids_1C, start_1, last, cache):
        logits_1CV, cache = nnx.merge(graphdef, params).step(ids_1C, start_1, cache)
        return jnp.argmax(logits_1CV[0, last]), cache

    start = jax.jit(lambda params: nnx.merge(graphdef, params).init_cache(1, longest))

    def solve():
        for window, count in turns:
            padded = np.zeros((1, -(-len(window) // BLOCK) * BLOCK), np.int32)
            padded[0, : len(window)] = window
            token, cache = feed(params, padded, np.zeros(1, np.int32), len(window) - 1, start(params))
            for at in range(len(window), len(window) + count - 1):
                ids_11 = np.array([[int(token)]], np.int32)
                token, cache = feed(params, ids_11, np.array([at], np.int32), 0, cache)
            int(token)

    return 1 / seconds(solve, 1, warm=1)


def loop_in_transformers(shape: LlamaConfig, tokens) -> float:
    """Problems a second of the authors' loop, by `generate`."""
    import torch
    from transformers import LlamaForCausalLM

    from retune_jax.checkpoints import hugging_face

    described = hugging_face.config_of(shape, bos=tokens.bos, eos=tokens.eos)
    place = "cuda" if torch.cuda.is_available() else "cpu"
    with torch.device(place):
        config = LlamaForCausalLM.config_class.from_dict(described)
        model = LlamaForCausalLM._from_config(config, dtype=getattr(torch, shape.param_dtype)).eval()

    def solve(turns):
        for window, count in turns:
            ids = torch.tensor([window], device=place)
            model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                do_sample=False,
                min_new_tokens=count,
                max_new_tokens=count,
                pad_token_id=tokens.eos,
            )

    turns = segments(tokens)
    solve(turns[:2])  # warms up
    return 1 / seconds(partial(solve, turns), 1, warm=0)


def has_cuda_torch() -> bool:
    """Whether torch and transformers are there, with CUDA."""
    try:
        import torch
        import transformers  # noqa: F401
    except ImportError:
        return False
    return torch.cuda.is_available()


def main(_):
    """The command line."""
    began = time.perf_counter()

    def say(text: str):
        print(f"{time.perf_counter() - began:4.0f} s: {text}", flush=True)
        output = Path(OUTPUT.value)
        output.mkdir(parents=True, exist_ok=True)
        (output / "decode_gpu.json").write_text(json.dumps(report, indent=1) + "\n")

    shape = presets.get(MODEL.value)
    if LAYERS.value:
        shape = dataclasses.replace(shape, layers=LAYERS.value)
    tokens = tokenizer.tiny()  # its ids are words of the larger vocabulary, too
    model = apart(Llama(shape, None, remat="none", rngs=nnx.Rngs(0)), donate=True)  # as the decoder takes it
    weights = sum(leaf.nbytes for leaf in jax.tree.leaves(nnx.state(model)))
    rate = bandwidth()
    report = {"device": jax.devices()[0].device_kind, "model": MODEL.value, "layers": shape.layers, "bandwidth": rate}
    report |= {"weights": weights, "context": CONTEXT.value, "task": TASK.value, "length": LENGTH.value}
    report |= {"rows": [], "failed": []}
    say(f"{report['device']}: {rate / 1e9:.0f} GB/s, weights {weights / 1e9:.2f} GB")
    by = ("transformers" if has_cuda_torch() else "jax") if LOOP.value == "auto" else LOOP.value
    loop = loop_in_jax(model, tokens) if by == "jax" else loop_in_transformers(shape, tokens)
    report["loop"] = {"by": by, "problems_per_second": loop}
    say(f"the authors' loop, by {by}: {loop:.4f} problems/s")
    for slots in map(int, BATCHES.value):
        try:
            took, cache = a_pass(model, tokens, slots)
            least = (weights + cache) / rate
            row = {"slots": slots, "seconds": took, "least": least, "share": least / took, "cache_bytes": cache}
            report["rows"].append(row)
            say(f"{slots} slots: {took * 1e3:.2f} ms a pass, memory alone {least * 1e3:.2f} ms, {least / took:.0%}")
            solved = solving(model, tokens, slots)
            row |= {"problems_per_second": solved, "times_the_loop": solved / loop}
            say(f"{slots} slots: {solved:.2f} problems/s, {solved / loop:.1f} times the loop")
        except (UserError, jax.errors.JaxRuntimeError) as error:  # most often memory: said, and the others go on
            report["failed"].append(f"{slots} slots: {str(error)[:200]}")
            say(f"failed: {report['failed'][-1]}")


if __name__ == "__main__":
    app.run(main)
