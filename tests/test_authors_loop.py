"""The authors' way to evaluate, written anew on transformers, and our decoder give the same answers on the same weights.

Theirs is a recursion of the host's over text: generate up to the end of a segment, and where it calls, do the same for the
subproblem, paste what came back, and generate on. The model is a small one that has learned short parities by heart, so that it
truly calls itself, and gets longer ones wrong.
"""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch
import transformers
from flax import nnx
from small_hf import train_tokenizer

from retune_jax import tasks, tokenizer
from retune_jax.checkpoints import exporting, weights
from retune_jax.data.encode import encode
from retune_jax.decoding import DecoderConfig, RecursiveDecoder
from retune_jax.models import sharding
from retune_jax.models.llama import LlamaConfig
from retune_jax.training import loss

WINDOW, DEPTH = 112, 5


def train(model, tokenizer, contexts, length=80, steps=110):
    """Learns the contexts by heart."""
    batch = {f"{name}_BT": [] for name in ("tokens", "targets", "weights")}
    segments = []
    for context in contexts:
        encoded = encode(tokenizer, {"inputs": context.inputs(), "outputs": context.outputs()}, "mean")
        for name in ("tokens", "targets", "weights"):
            batch[f"{name}_BT"].append(np.pad(encoded[f"{name}_T"], (0, length - len(encoded["tokens_T"]))))
        segments.append(encoded["segments"])
    batch = {name: np.stack(rows) for name, rows in batch.items()}
    shape = batch["tokens_BT"].shape
    batch |= {"positions_BT": np.broadcast_to(np.arange(length), shape), "segment_ids_BT": np.ones(shape, np.int32)}
    batch["segments_B"] = np.array(segments)
    graphdef, params = nnx.split(model)
    params = jax.tree.map(np.asarray, nnx.to_pure_dict(params))  # on one device from here on
    adam = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(4e-3))

    @jax.jit
    def step(params, state):
        value, grads, _ = loss.gradient(params, {}, batch, jax.random.key(0), graphdef=graphdef, accumulate=1)
        updates, state = adam.update(grads, state)
        return jax.tree.map(jnp.add, params, updates), state, value

    state = adam.init(params)
    for _ in range(steps):
        params, state, value = step(params, state)
    return params, float(value)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The trained model as a base, and as what was exported of it."""
    folder = tmp_path_factory.mktemp("parities")
    train_tokenizer(folder / "tokenizer.model")
    shape = LlamaConfig(
        vocab_size=384,
        layers=2,
        width=64,
        heads=4,
        kv_heads=2,
        head_width=16,
        hidden=128,
        rope_theta=1e4,
        norm_epsilon=1e-5,
        tied_embeddings=False,
        dtype="float32",
        param_dtype="float32",
    )
    cut = tokenizer.Tokenizer(folder / "tokenizer.model")
    mesh = sharding.make_mesh(-1, 1, 1)
    model = weights.assemble(weights.Base(shape, None, cut), None, remat="none", context_length=None, seed=0, mesh=mesh)
    task = tasks.get("parity")
    contexts = [task.written(bits, "retune") for size in (1, 2, 3) for bits in itertools.product((0, 1), repeat=size)]
    params, value = train(model, cut, contexts)
    assert value < 0.05
    weights.save_base(folder / "base", shape, params, cut.path)
    exporting.write_hf(weights.load_base(str(folder / "base"), "custom"), None, {}, folder / "model")
    return folder


class Failed(Exception):
    """The model wrote what cannot be gone on with."""


class AuthorsLoop:
    """Solves one problem after another with a transformers model."""

    def __init__(self, folder):
        self.model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype="float32").eval()
        self.tokenizer = transformers.AutoTokenizer.from_pretrained(folder)

    @torch.no_grad()
    def generate(self, text: str) -> str:
        inputs = self.tokenizer(text, return_tensors="pt")
        opened = inputs["input_ids"].shape[1]
        written = self.model.generate(
            input_ids=inputs["input_ids"],
            attention_mask=inputs["attention_mask"],
            max_length=WINDOW,
            do_sample=False,
            pad_token_id=self.tokenizer.eos_token_id,
        )[0, opened:]
        if written[-1] != self.tokenizer.eos_token_id:
            raise Failed("no end within the window")
        return self.tokenizer.decode(written, skip_special_tokens=True)

    def solve(self, prompt: str, callers=()) -> str:
        if len(callers) > DEPTH or prompt in callers:
            raise Failed("too deep")
        text = f" {prompt}\nSolution:"
        while True:
            segment = self.generate(text)
            if "Call:" not in segment:
                return segment.split("Answer:")[-1].strip()
            call = segment.split("Call:")[-1]
            if not call.endswith("\n") or not call.strip():
                raise Failed("a call that is none")
            text += f"{segment}Return: {self.solve(call.strip(), (*callers, prompt))}\nAnswer:"


@pytest.mark.slow
def test_the_authors_loop_gives_the_same_answers_problem_for_problem(folder):
    task, rng = tasks.get("parity"), np.random.default_rng(0)
    problems = [bits for size in (1, 2, 3) for bits in itertools.product((0, 1), repeat=size)]
    problems += [task.sample(rng, length) for length in (4, 4, 5, 6)]
    prompts = [task.question(problem, "retune") for problem in problems]
    base = weights.load_base(str(folder / "base"), "custom")
    mesh = sharding.make_mesh(-1, 1, 1)
    model = weights.assemble(base, None, remat="none", context_length=None, seed=0, mesh=mesh)
    graphdef, params = nnx.split(model)
    model = nnx.merge(graphdef, jax.tree.map(lambda x: jnp.asarray(np.asarray(x)), params))  # on one device
    config = DecoderConfig(
        slots=4,
        window=WINDOW,
        max_depth=DEPTH,
        stack_tokens=WINDOW * DEPTH,
        max_tokens=2000,
        max_calls=100,
        tokens_per_step=4,
        steps_per_advance=8,
        calls=True,
        opening="\nSolution:",
        temperature=0.0,
        seed=0,
        draft=True,
    )
    loop, answers = AuthorsLoop(folder / "model"), []
    results = RecursiveDecoder(model, base.tokenizer, config).solve(prompts)
    for prompt, result in zip(prompts, results):
        try:
            expected = loop.solve(prompt)
        except Failed:
            expected = None
        assert (result.value if result.status == "ok" else None) == expected, (prompt, result.status)
        answers.append(expected)
    right = [answer == task.answer(problem) for answer, problem in zip(answers, problems)]
    assert all(right[:14]) and sum(result.calls for result in results[:14]) == 20, "it does call itself"
    assert not all(right[14:]), "and some answers are wrong, the same ones"
