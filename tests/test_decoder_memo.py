"""The memo, the stack policies and the counts of work change what is computed, never what is written."""

import dataclasses

import jax
import numpy as np
import pytest
from flax import nnx
from scripted import SMALL, PlainRecursion, RandomModel, ScriptedModel, babble, bits_tree, hash_of, script_of

from retune_jax import tokenizer
from retune_jax.decoding import RecursiveDecoder, memory, move
from retune_jax.decoding.result import trace
from retune_jax.errors import UserError
from retune_jax.evaluation import sizes
from retune_jax.models import presets
from retune_jax.models.llama import Llama, apart
from retune_jax.protocol import SOLUTION

TOKENIZER = tokenizer.tiny()
CONFIG = SMALL
ROOMY = dataclasses.replace(CONFIG, max_depth=20, stack_tokens=1200, max_tokens=2000, max_calls=40)


@pytest.fixture(scope="module")
def babbling():
    """A model that writes rubbish, and what a plain recursion makes of it: prompts and results, of many statuses."""
    model = RandomModel(babble(TOKENIZER))
    logits = jax.jit(lambda prefix, last: model.logits(prefix[None, None], last[None, None])[0, 0])
    plain = PlainRecursion(lambda ids: int(np.argmax(logits(np.uint32(hash_of(ids)), np.int32(ids[-1])))), TOKENIZER, CONFIG)
    prompts = [f"{number % 90}" for number in range(120)]
    results = [plain.solve(prompt) for prompt in prompts]
    assert len({result.status for result in results}) > 2
    return model, prompts, results


@pytest.fixture(scope="module")
def parities():
    """Trees of parities with many bits in common, and a model that writes them."""
    rng = np.random.default_rng(3)
    trees = [bits_tree(rng.integers(0, 2, 7).tolist()) for _ in range(24)]
    return trees, ScriptedModel(script_of(TOKENIZER, trees, SOLUTION), TOKENIZER.vocab_size, TOKENIZER.encode("0")[0])


@pytest.mark.parametrize(("entries", "least"), [(7, 1), (4096, 6)])
def test_a_memo_of_any_size_changes_no_text_no_count_and_no_status(babbling, entries, least):
    model, prompts, expected = babbling
    results = RecursiveDecoder(model, TOKENIZER, dataclasses.replace(CONFIG, memo=entries)).solve(prompts)
    assert results == expected
    recalled = [result.work.recalled for result in results]
    assert sum(recalled) >= least and all(few <= result.calls for few, result in zip(recalled, results))


def test_equal_subproblems_are_solved_once_and_the_whole_tree_is_told(parities):
    trees, model = parities
    results = RecursiveDecoder(model, TOKENIZER, dataclasses.replace(ROOMY, slots=1, memo=1 << 16)).solve(
        [t.prompt for t in trees]
    )
    assert [result.context for result in results] == trees
    written = {c.prompt: sum(len(TOKENIZER.encode(s.text)) + 1 for s in c.segments) for tree in trees for c in tree.walk()}
    assert sum(result.tokens - result.work.spared for result in results) == sum(written.values())
    assert sum(result.work.recalled for result in results) > 10


def test_a_second_run_of_one_decoder_tells_the_same(parities):
    trees, model = parities
    decoder = RecursiveDecoder(model, TOKENIZER, dataclasses.replace(ROOMY, memo=1024))
    for chosen in (trees, trees[::-1], trees[5:9]):
        assert [result.context for result in decoder.solve([tree.prompt for tree in chosen])] == chosen


@pytest.mark.parametrize(
    ("stack", "fixed"), [("keep", False), ("recompute", False), ("offload", False), ("keep", True), ("offload", True)]
)
def test_every_stack_policy_gives_the_text_of_a_plain_recursion(babbling, stack, fixed, monkeypatch):
    model, prompts, expected = babbling
    config = dataclasses.replace(CONFIG, stack=stack, slots=4)
    if fixed:  # as on a GPU, and so short that slots have to wait
        monkeypatch.setattr(move, "blocks_at_a_time", lambda slots, window: 2)
        config = dataclasses.replace(config, slots=5)
    assert RecursiveDecoder(model, TOKENIZER, config).solve(prompts) == expected


def test_work_is_counted(parities):
    trees, model = parities
    prompts = [tree.prompt for tree in trees]
    kept, recomputed, plain = (
        RecursiveDecoder(model, TOKENIZER, dataclasses.replace(ROOMY, **changes)).solve(prompts)
        for changes in ({}, {"stack": "recompute"}, {"draft": False})
    )
    assert kept == recomputed == plain
    for result, again, slow in zip(kept, recomputed, plain):
        assert result.work.kept > again.work.kept > 0, "a caller's tokens are kept"
        assert result.work.computed < again.work.computed, "or fed again"
        assert result.work.guessed > 0 == slow.work.guessed
        assert result.work.recalled == result.work.spared == 0
        assert result.work.computed % ROOMY.tokens_per_step == 0


def test_a_trace_tells_the_tokens_and_the_probability_of_every_segment(parities):
    trees, model = parities
    prompts = [tree.prompt for tree in trees[:8]]
    plain, remembered = (
        RecursiveDecoder(model, TOKENIZER, dataclasses.replace(ROOMY, trace=True, **changes)).solve(prompts)
        for changes in ({"tokens_per_step": 3}, {"memo": 1024, "slots": 2})
    )
    assert plain == remembered and [result.context for result in plain] == trees[:8]
    one = 1 - np.log(np.e + TOKENIZER.vocab_size - 1)  # the script's token has logit 1, all others 0
    for result, again in zip(plain, remembered):
        texts = [text for _, text in result.context.turns()]
        assert [spoken.tokens for spoken in result.spoken] == [len(TOKENIZER.encode(text)) + 1 for text in texts]
        np.testing.assert_allclose([s.log_probability / s.tokens for s in result.spoken], one, rtol=1e-4)
        assert trace(again) == trace(result)
        contexts = trace(result)
        assert [(c["prompt"], c["status"]) for c in contexts] == [(c.prompt, c.status) for c in result.context.walk()]
        assert [c["depth"] for c in contexts] == list(range(len(contexts)))
        assert [s["text"] for s in contexts[-1]["segments"]] == [contexts[-1]["segments"][0]["text"]]


def test_sixty_nested_frames_take_little_more_than_their_lengths():
    from retune_jax import tasks

    task = tasks.get("addition")
    tree = tasks.trace(task, task.sample(np.random.default_rng(0), 60))
    needed = sizes.need(tree, SOLUTION, TOKENIZER.encode)
    assert needed.depth == 59
    frames, context = 0, tree
    while context.segments[0].callee:  # each suspended context holds its opening and its call
        frames += 1 + len(TOKENIZER.encode(context.inputs()[0])) + len(TOKENIZER.encode(context.segments[0].text))
        context = context.segments[0].callee
    assert needed.stack == frames
    config = dataclasses.replace(ROOMY, window=400, max_depth=60, stack_tokens=needed.stack, max_tokens=20_000, slots=2)
    model = ScriptedModel(script_of(TOKENIZER, [tree], SOLUTION), TOKENIZER.vocab_size, TOKENIZER.encode("0")[0])
    decoder = RecursiveDecoder(model, TOKENIZER, dataclasses.replace(config, max_calls=60))
    assert decoder.solve([tree.prompt])[0].context == tree
    assert decoder.need.stack <= 1.3 * config.slots * frames * 4  # this model's keys and values take 4 bytes a token


def test_a_decoder_that_does_not_fit_is_refused_in_one_line_and_auto_takes_what_fits():
    model = RandomModel(babble(TOKENIZER))
    large = dataclasses.replace(CONFIG, stack_tokens=1 << 24, memory_gib=0.01)
    with pytest.raises(UserError, match=r"the decoder needs 0\.\d+ GiB of memory with decode\.stack=keep") as error:
        RecursiveDecoder(model, TOKENIZER, large)
    assert "\n" not in str(error.value)
    need = memory.Need(weights=0, layers=0, windows=0, stack=100 * memory.GIB**2, rest=0)
    device = jax.devices()[0]
    auto = dataclasses.replace(CONFIG, stack="auto", memory_gib=1.0)
    assert memory.choose(need, auto, device, 1) == "recompute"
    assert memory.choose(dataclasses.replace(need, stack=memory.GIB // 2), auto, device, 1) == "keep"
    assert memory.choose(dataclasses.replace(need, stack=memory.GIB * 5 // 4), auto, device, 1) == "offload"
    with pytest.raises(UserError, match=r"fewer decode\.slots"):
        memory.choose(dataclasses.replace(need, rest=2 * memory.GIB), auto, device, 1)


def test_layers_that_have_to_be_taken_apart_are_counted_twice():
    shape = dataclasses.replace(presets.get("tiny"), vocab_size=TOKENIZER.vocab_size, layers=2, width=32, hidden=64)
    model = Llama(shape, None, remat="none", rngs=nnx.Rngs(0))
    held = sum(leaf.nbytes for leaf in jax.tree.leaves(nnx.state(model.layers)))
    need = RecursiveDecoder(model, TOKENIZER, CONFIG).need
    assert (need.layers, need.weights) == (held, sum(leaf.nbytes for leaf in jax.tree.leaves(nnx.state(model))))
    assert RecursiveDecoder(apart(model, donate=False), TOKENIZER, CONFIG).need == dataclasses.replace(need, layers=0)


def test_a_stack_policy_that_there_is_not_is_a_users_mistake():
    with pytest.raises(UserError, match=r"decode\.stack is 'drop'; it is one of keep, offload, recompute, auto"):
        dataclasses.replace(CONFIG, stack="drop")
