"""Training and decoding are those of torch, transformers and PEFT: gradients, an optimizer's step, greedy text.

On the other side stands what the authors do: a sequence for each segment, with everything before it, padded, the loss on the
segment only. Here a context is one sequence, and several are packed into a row.

Shapes: B rows, T tokens of a row, S segments.
"""

import jax
import numpy as np
import peft
import pytest
import torch
import transformers
from flax import nnx, traverse_util
from small_hf import make, save, train_tokenizer

from retune_jax import config as recipes
from retune_jax import tasks
from retune_jax.checkpoints import peft as peft_files
from retune_jax.checkpoints import runs
from retune_jax.checkpoints.importing import import_adapter, import_base
from retune_jax.data.encode import encode
from retune_jax.decoding import DecoderConfig, RecursiveDecoder
from retune_jax.models import sharding
from retune_jax.models.lora import PROJECTIONS, LoRAParam
from retune_jax.training import loss, optimizer

# PEFT 0.21 asks transformers 5 in words of its version 4.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")

PROBLEMS = ["[0, 1, 1]", "[1, 0]", "[1, 1, 0, 1, 0]"]
ROW = 384


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """The same tuned model twice: PEFT's, and a run here, with its configuration, graph, adapter, base and tokenizer."""
    folder = tmp_path_factory.mktemp("pair")
    train_tokenizer(folder / "tokenizer.model")
    released = make(num_key_value_heads=2)
    with torch.no_grad():  # control pieces and single bytes are never likeliest: greedy text goes on, and is text
        released.lm_head.weight[:259] = 0
    save(released, folder / "model", folder / "tokenizer.model")
    import_base(folder / "model", folder / "base", dtype=None, tokenizer=None)
    # The dropout is read by nobody: neither side draws any here.
    chosen = peft.LoraConfig(r=8, lora_alpha=12, target_modules=[f"{name}_proj" for name in PROJECTIONS], task_type="CAUSAL_LM")
    theirs = peft.get_peft_model(transformers.AutoModelForCausalLM.from_pretrained(folder / "model", dtype="float32"), chosen)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, weight in theirs.named_parameters():
            if "lora_B" in name:
                weight.copy_(torch.randn(weight.shape, generator=generator) * 0.1)
    theirs.save_pretrained(folder / "adapter")
    config = recipes.recipe("model=custom", task="parity")
    config.base, config.train.remat = str(folder / "base"), "none"
    import_adapter(folder / "adapter", folder / "run", config)
    config, model, tokenizer = runs.load_model(folder / "run", sharding.make_mesh(-1, 1, 1))
    graphdef, adapter, base = nnx.split(model, LoRAParam, ...)
    return theirs, config, graphdef, nnx.to_pure_dict(adapter), nnx.to_pure_dict(base), tokenizer


def contexts():
    task = tasks.get("parity")
    for problem in PROBLEMS:
        yield from task.written(task.parse(f"What is the parity of {problem}?"), "retune").walk()


def our_batch(tokenizer):
    """All contexts, packed into two rows."""
    rows = [[], []]
    for number, context in enumerate(contexts()):
        rows[number % 2].append(encode(tokenizer, {"inputs": context.inputs(), "outputs": context.outputs()}, "sum"))
    batch = {f"{name}_BT": np.zeros((2, ROW), np.int32) for name in ("tokens", "targets", "segment_ids", "positions")}
    batch |= {"weights_BT": np.zeros((2, ROW), np.float32), "segments_B": np.zeros(2, np.int32)}
    for b, row in enumerate(rows):
        start = 0
        for number, encoded in enumerate(row, start=1):
            here = slice(start, start + len(encoded["tokens_T"]))
            for name in ("tokens", "targets", "weights"):
                batch[f"{name}_BT"][b, here] = encoded[f"{name}_T"]
            batch["segment_ids_BT"][b, here] = number
            batch["positions_BT"][b, here] = range(here.stop - start)
            batch["segments_B"][b] += encoded["segments"]
            start = here.stop
    return batch


def their_loss(model, tokenizer):
    """The authors' loss: of each segment the sum over its tokens and EOS, averaged over segments."""
    sequences = []
    for context in contexts():
        before = ""
        for text, output in zip(context.inputs(), context.outputs()):
            before += text
            prefix, generated = [tokenizer.bos, *tokenizer.encode(before)], [*tokenizer.encode(output), tokenizer.eos]
            sequences.append((prefix + generated, [-100] * len(prefix) + generated))
            before += output
    longest = max(len(tokens) for tokens, _ in sequences)
    tokens, labels, mask = (
        torch.tensor([[*row, *[fill] * (longest - len(row))] for row in rows])
        for rows, fill in (
            ([tokens for tokens, _ in sequences], tokenizer.eos),
            ([labels for _, labels in sequences], -100),
            ([[1] * len(tokens) for tokens, _ in sequences], 0),
        )
    )
    logits = model(tokens, attention_mask=mask).logits[:, :-1]
    total = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels[:, 1:].flatten(), reduction="sum")
    return total / len(sequences)


def by_their_names(adapter):
    """An adapter's tree (or its gradient's) as PEFT names and lays out its parts."""
    flat = traverse_util.flatten_dict(adapter, sep="/")
    return {
        peft_files.their_name(target, layer, matrix): np.asarray(flat[f"{place}/lora/{matrix.lower()}"][layer]).T
        for target, place in peft_files.PLACES.items()
        for matrix in "AB"
        for layer in range(2)
    }


def trained(model):
    return {name.replace(".default", ""): weight for name, weight in model.named_parameters() if weight.requires_grad}


def test_the_adapters_gradient_on_packed_contexts_is_pefts_on_the_authors_padded_segments(pair):
    theirs, _, graphdef, adapter, base, tokenizer = pair
    theirs.zero_grad()
    expected = their_loss(theirs.train(), tokenizer)
    expected.backward()
    differentiate = jax.jit(lambda *args: loss.gradient(*args, graphdef=graphdef, accumulate=1))
    found, grads, _ = differentiate(adapter, base, our_batch(tokenizer), jax.random.key(0))
    assert abs(found - expected.item()) <= 1e-5 * expected.item()
    grads = by_their_names(grads)
    assert grads.keys() == trained(theirs).keys()
    for name, weight in trained(theirs).items():
        gap = np.linalg.norm(grads[name] - weight.grad.numpy()) / np.linalg.norm(weight.grad.numpy())
        assert gap <= 1e-4, (name, gap)


def test_a_step_of_the_recipe_is_one_of_torchs_adamw(pair):
    """Clipping included: the gradient is longer than 10."""
    _, config, _, adapter, *_ = pair
    rng = np.random.default_rng(0)
    grads = jax.tree.map(lambda x: rng.normal(size=x.shape).astype(np.float32), adapter)
    ours = optimizer.make_optimizer(config.train)
    state, params = ours.init(adapter), adapter
    copies = {name: torch.nn.Parameter(torch.tensor(value.copy())) for name, value in by_their_names(adapter).items()}
    adamw = torch.optim.AdamW(copies.values(), lr=1.0, weight_decay=config.train.weight_decay)
    for step in range(3):
        rate = float(optimizer.schedule(config.train)(step))
        grads = jax.tree.map(lambda g: g * 0.7 + rng.normal(size=g.shape).astype(np.float32) * 0.1, grads)
        updates, state = jax.jit(ours.update)(grads, state, params)
        params = jax.tree.map(lambda p, u: p + u, params, updates)
        for name, value in by_their_names(grads).items():
            copies[name].grad = torch.tensor(value.copy())
        assert torch.nn.utils.clip_grad_norm_(copies.values(), config.train.clip) > config.train.clip
        adamw.param_groups[0]["lr"] = rate
        adamw.step()
        before, after = by_their_names(adapter), by_their_names(params)
        for name, value in copies.items():
            moved = value.detach().numpy() - before[name]
            assert np.abs(after[name] - value.detach().numpy()).max() <= 1e-5 * np.abs(value.detach().numpy()).max()
            assert np.linalg.norm(after[name] - before[name] - moved) <= 1e-3 * np.linalg.norm(moved)
    assert rate == pytest.approx(2e-4)


def test_greedy_text_of_200_tokens_is_transformers(pair):
    theirs, config, graphdef, adapter, base, tokenizer = pair
    prompts = ["What is the parity of [0, 1, 1, 0]?", "123 + 45"]
    limits = {"slots": 2, "window": 288, "max_tokens": 240, "max_depth": 0, "stack_tokens": 288, "max_calls": 0, "calls": False}
    decoder = RecursiveDecoder(
        nnx.merge(graphdef, adapter, base), tokenizer, DecoderConfig(**(config.decode.to_dict() | limits))
    )
    for prompt, result in zip(prompts, decoder.solve(prompts)):
        opened = [tokenizer.bos, *tokenizer.encode(f" {prompt}\nSolution:")]
        with torch.no_grad():
            written = (
                theirs.eval()
                .generate(
                    input_ids=torch.tensor([opened]),
                    attention_mask=torch.ones(1, len(opened), dtype=torch.long),
                    max_new_tokens=200,
                    do_sample=False,
                    pad_token_id=tokenizer.eos,
                )[0, len(opened) :]
                .tolist()
            )
        assert len(written) == 200 and len(set(written)) > 5
        assert result.text.startswith(tokenizer.decode(written))
