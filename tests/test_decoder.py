"""The recursive decoder writes what a plain recursion would, whatever is in the other slots and however it is scheduled."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from scripted import SMALL, MixedModel, PlainRecursion, RandomModel, ScriptedModel, babble, hash_of, script_of

from retune_jax import tasks, tokenizer
from retune_jax.decoding import RecursiveDecoder, decoder, draft, move, state
from retune_jax.decoding.result import vote
from retune_jax.decoding.step import choose, likely
from retune_jax.models import presets
from retune_jax.models.llama import Llama
from retune_jax.protocol import SOLUTION

TOKENIZER = tokenizer.tiny()
LOST = TOKENIZER.encode("0")[0]

CONFIG = dataclasses.replace(SMALL, window=480, max_depth=64, stack_tokens=12_000, max_tokens=8_000, max_calls=100)


def scripted(trees, opening=SOLUTION):
    return ScriptedModel(script_of(TOKENIZER, trees, opening), TOKENIZER.vocab_size, LOST)


REPLAYED = {
    "parity": (1, 2, 3, 8, 30),
    "addition": (1, 7, 60, 33),
    "dynamic_programming": (1, 2, 7, 10),
    "merge_sort": (1, 5, 16),
    "multiplication": (1, 2, 4),
    "satisfiability": (3, 6, 6),
}


@pytest.fixture(scope="module")
def replayed():
    """(task, problem, true tree) of many problems, and a decoder whose model knows them all by heart."""
    rng = np.random.default_rng(1)
    cases = [(tasks.get(name), length) for name, lengths in REPLAYED.items() for length in lengths]
    cases = [(task, task.sample(rng, length)) for task, length in cases]
    cases = [(task, problem, tasks.trace(task, problem)) for task, problem in cases]
    return cases, RecursiveDecoder(scripted([tree for *_, tree in cases]), TOKENIZER, CONFIG)


@pytest.mark.parametrize("name", REPLAYED)
def test_a_scripted_model_replays_the_whole_call_tree_of_each_task(replayed, name):
    cases, solver = replayed
    cases = [case for case in cases if case[0].name == name]
    results = solver.solve([task.prompt(problem) for task, problem, _ in cases])
    for (task, problem, tree), result in zip(cases, results):
        assert (result.status, result.context) == ("ok", tree)
        assert (result.text, result.value) == (tree.segments[-1].text, tree.value)
        assert task.grade(problem, "retune", result.text)
        assert result.calls == sum(1 for _ in tree.walk()) - 1
        assert result.tokens == sum(len(TOKENIZER.encode(s.text)) + 1 for c in tree.walk() for s in c.segments)


@pytest.mark.parametrize("method", ["scratchpad", "baseline"])
def test_without_calls_every_segment_is_an_answer(method):
    task = tasks.get("parity")
    problems = [task.parse("[0, 1, 1]"), task.parse("[1]")]
    trees = [task.written(problem, method) for problem in problems]
    config = dataclasses.replace(SMALL, calls=False, opening=task.opening(method))
    results = RecursiveDecoder(scripted(trees, config.opening), TOKENIZER, config).solve([t.prompt for t in trees])
    assert [result.context for result in results] == trees
    assert [(r.status, r.calls, r.depth) for r in results] == [("ok", 0, 0)] * 2


@pytest.mark.parametrize("name", ["parity", "multiplication"])
def test_without_carry_over_the_subproblem_is_solved_and_nothing_of_its_value_pasted(name):
    task = tasks.get(name)
    problems = [task.sample(np.random.default_rng(seed), 3) for seed in range(4)]
    trees = [task.written(problem, "no_carry") for problem in problems]
    config = dataclasses.replace(CONFIG, carry=False)
    results = RecursiveDecoder(scripted(trees), TOKENIZER, config).solve([tree.prompt for tree in trees])
    assert [result.context for result in results] == trees
    assert [result.value for result in results] == [task.answer(problem) for problem in problems]


def plain_random(config):
    model = RandomModel(babble(TOKENIZER))
    logits = jax.jit(lambda prefix, last: model.logits(prefix[None, None], last[None, None])[0, 0])

    def next_token(ids):
        return int(np.argmax(logits(np.uint32(hash_of(ids)), np.int32(ids[-1]))))

    return model, PlainRecursion(next_token, TOKENIZER, config)


@pytest.mark.parametrize(
    "schedule",
    [
        {"slots": 1, "tokens_per_step": 1, "steps_per_advance": 3, "draft": False},
        {"slots": 3, "tokens_per_step": 8, "steps_per_advance": 8, "draft": True},
        {"slots": 16, "tokens_per_step": 5, "steps_per_advance": 11, "draft": True},
    ],
    ids=str,
)
def test_text_is_that_of_a_plain_recursion_for_every_batch_schedule_and_draft(schedule):
    config = dataclasses.replace(SMALL, **schedule)
    model, plain = plain_random(config)
    prompts = [f"{number}" for number in range(60)]
    expected = [plain.solve(prompt) for prompt in prompts]
    assert len({result.status for result in expected}) > 2
    assert max(result.calls for result in expected) > 4
    assert RecursiveDecoder(model, TOKENIZER, config).solve(prompts) == expected
    shuffled = np.random.default_rng(0).permutation(60)[:20]
    results = RecursiveDecoder(model, TOKENIZER, config).solve([prompts[n] for n in shuffled])
    assert results == [expected[n] for n in shuffled], "neighbours changed a text"


@pytest.mark.parametrize("draft", [True, False])
def test_a_random_llama_writes_token_for_token_what_it_writes_without_a_cache(draft):
    shape = dataclasses.replace(
        presets.get("tiny"), vocab_size=TOKENIZER.vocab_size, layers=2, width=32, kv_heads=2, head_width=8, hidden=64
    )
    model = MixedModel(Llama(shape, None, remat="none", rngs=nnx.Rngs(0)), babble(TOKENIZER), scale=0.25)
    config = dataclasses.replace(SMALL, draft=draft)
    graphdef, params = nnx.split(model)
    uncached = jax.jit(lambda *arguments: nnx.merge(graphdef, params).uncached(*arguments))

    def next_token(ids):
        tokens_T = np.pad(np.array(ids, np.int32), (0, config.window - len(ids)))
        return int(np.argmax(uncached(tokens_T, len(ids), np.uint32(hash_of(ids)))))

    plain = PlainRecursion(next_token, TOKENIZER, config)
    prompts = [f"{number}" for number in range(90)]
    expected = [plain.solve(prompt) for prompt in prompts]
    assert sum(result.calls for result in expected) > 5
    assert RecursiveDecoder(model, TOKENIZER, config).solve(prompts) == expected


def test_draws_depend_on_the_problem_and_the_place_only():
    model = RandomModel(babble(TOKENIZER))
    warm = dataclasses.replace(SMALL, temperature=0.3)
    prompts = ["7"] * 24
    first = RecursiveDecoder(model, TOKENIZER, warm).solve(prompts)
    assert len({result.text for result in first}) > 10, "equal problems with different numbers draw differently"
    other = dataclasses.replace(warm, slots=7, tokens_per_step=3, steps_per_advance=5, draft=False)
    assert RecursiveDecoder(model, TOKENIZER, other).solve(prompts) == first
    assert RecursiveDecoder(model, TOKENIZER, dataclasses.replace(other, seed=1)).solve(prompts) != first
    # Other problems before and between them change no sample either.
    mixed = RecursiveDecoder(model, TOKENIZER, dataclasses.replace(other, memo=64)).solve(
        ["1", *prompts[:9], "2", *prompts[9:]]
    )
    assert [result for result in mixed if result.prompt == "7"] == first


def test_samples_of_each_problem_and_the_value_that_most_of_them_have():
    model = RandomModel(babble(TOKENIZER))
    warm = dataclasses.replace(SMALL, temperature=0.3)
    first, second = RecursiveDecoder(model, TOKENIZER, warm).sample(["7", "3"], 12)
    assert ([r.prompt for r in first], [r.prompt for r in second]) == (["7"] * 12, ["3"] * 12)
    assert RecursiveDecoder(model, TOKENIZER, warm).sample(["3"], 12) == [second]
    values = [r.value for r in first if r.status == "ok"]
    assert values.count(vote(first).value) == max(map(values.count, values))
    failed = [dataclasses.replace(r, status="bad_call") for r in first]
    assert vote(failed) is failed[0]


@pytest.mark.parametrize(("changes", "left"), [({"top_k": 2}, [1, 2]), ({"top_p": 0.7}, [1, 2]), ({"top_p": 0.3}, [2])])
def test_top_k_and_top_p_leave_the_likeliest_tokens_and_their_proportions(changes, left):
    logits_V = jnp.array([0.0, 0.9, 1.0, -1.0])
    kept_V = likely(dataclasses.replace(SMALL, temperature=1.0, **changes), logits_V)
    assert jnp.flatnonzero(kept_V > -jnp.inf).tolist() == left
    np.testing.assert_array_equal(kept_V[jnp.array(left)], logits_V[jnp.array(left)])


def test_draws_follow_the_softmax_of_the_logits_at_the_temperature():
    config = dataclasses.replace(SMALL, slots=64, temperature=0.5)
    model = RandomModel(babble(TOKENIZER))
    slots = state.create(model, config, config.window, draft.Memory.empty()).slots
    slots = dataclasses.replace(slots, problem_B=jnp.arange(64))
    logits_V = np.array([0.0, 0.5, 1.0, -1.0], np.float32)
    logits_BCV = jnp.broadcast_to(logits_V, (64, 200, 4))
    drawn_BC = choose(config, slots, logits_BCV, jnp.broadcast_to(jnp.arange(200), (64, 200)))
    shares = np.bincount(np.asarray(drawn_BC).ravel(), minlength=4) / drawn_BC.size
    expected = np.exp(logits_V / 0.5) / np.exp(logits_V / 0.5).sum()
    np.testing.assert_allclose(shares, expected, atol=4 * 0.5 / drawn_BC.size**0.5)


def test_advance_compiles_once_a_window_size_whatever_the_number_of_problems():
    model = RandomModel(babble(TOKENIZER))
    config = dataclasses.replace(SMALL, slots=2, window=64, seed=99)
    solver = RecursiveDecoder(model, TOKENIZER, config)
    before = decoder.advance._cache_size(), decoder.refill._cache_size()
    for count in (1, 2, 9):
        assert len(solver.solve([f"{n}" for n in range(count)])) == count
    assert (decoder.advance._cache_size() - before[0], decoder.refill._cache_size() - before[1]) == (1, 1)


def small_llama():
    shape = dataclasses.replace(
        presets.get("tiny"), vocab_size=TOKENIZER.vocab_size, layers=2, width=32, heads=2, kv_heads=2, head_width=8, hidden=64
    )
    return Llama(shape, None, remat="none", rngs=nnx.Rngs(0))


def compiled_advance(config):
    """`advance` for a small LLaMA: jaxpr, compiled program, and a state."""
    solver = RecursiveDecoder(small_llama(), TOKENIZER, config)
    idle, _ = solver._idle()
    traced = decoder.advance.trace(solver._graphdef, solver._words, config, solver._params, solver._tables, idle)
    return traced.jaxpr, traced.lower().compile(), idle


@pytest.mark.parametrize("stack", ["keep", "offload", "recompute"])
def test_every_cache_and_stack_buffer_is_updated_in_place(stack):
    """No instruction of the compiled program copies keys and values, the log or the stacked tokens."""
    config = dataclasses.replace(SMALL, slots=5, stack=stack, memo=32)
    _, compiled, idle = compiled_advance(config)
    text = compiled.as_text()
    leaves = [*jax.tree.leaves((idle.cache, idle.stack)), idle.slots.log_BT, idle.slots.stack_BA, idle.memo.value_MV]
    for leaf in leaves:
        shape = f"{'f32' if leaf.dtype == jnp.float32 else 's32'}[{','.join(map(str, leaf.shape))}]"
        assert leaf.size == 0 or shape in text
        copies = [line for line in text.splitlines() if re.search(rf"= {re.escape(shape)}\S* copy\(", line)]
        assert leaf.size == 0 or not copies, f"{shape} is copied"
    kept = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(idle))
    analysis = compiled.memory_analysis()
    assert analysis.alias_size_in_bytes + analysis.host_alias_size_in_bytes >= kept
    assert (sum(leaf.size for leaf in jax.tree.leaves(idle.stack)) == 0) == (stack == "recompute")


def test_where_loops_ask_the_host_there_is_none_whose_length_depends_on_data(monkeypatch):
    monkeypatch.setattr(move, "blocks_at_a_time", lambda slots, window: slots)
    jaxpr, _, _ = compiled_advance(dataclasses.replace(SMALL, slots=6, stack="offload", memo=32))
    primitives = {equation.primitive.name for equation in equations(jaxpr.jaxpr)}
    assert {"scan", "dot_general"} <= primitives
    assert not {"while", "cond"} & primitives


def test_where_loops_ask_the_host_a_transition_moves_an_array_of_keys_or_values_without_a_loop(monkeypatch):
    monkeypatch.setattr(move, "blocks_at_a_time", lambda slots, window: slots)
    jaxpr, _, idle = compiled_advance(dataclasses.replace(SMALL, slots=6, stack="keep"))
    moved = {leaf.shape for leaf in jax.tree.leaves((idle.cache, idle.stack))}
    loops = [equation for equation in equations(jaxpr.jaxpr) if equation.primitive.name == "scan"]
    carried = [sum(var.aval.shape in moved for var in loop.outvars) for loop in loops]
    assert sorted(carried)[-2:] == [0, 8], "only the loop of passes carries them: keys and values of two layers, twice"


def test_no_stacked_weight_comes_into_the_loop_and_none_is_sliced():
    """XLA for GPUs copies each slice in every pass: a second reading of all weights, and a writing."""
    jaxpr, _, _ = compiled_advance(SMALL)
    model = small_llama()
    kernels = {leaf.shape for leaf in jax.tree.leaves(nnx.state(model.layers)) if leaf.ndim == 3}
    assert len(kernels) == 4

    def read(jaxpr):
        return {var.aval.shape for equation in equations(jaxpr) for var in equation.invars}

    assert not kernels & read(jaxpr.jaxpr)
    cache = model.init_cache(1, 8)
    stacked = jax.make_jaxpr(model.step)(jnp.zeros((1, 2), jnp.int32), jnp.zeros(1, jnp.int32), cache)
    assert kernels <= read(stacked.jaxpr), "what is looked for would be found"


def equations(jaxpr):
    """All that a jaxpr does, in its loops and calls as well."""
    for equation in jaxpr.eqns:
        yield equation
        for value in jax.tree.leaves(equation.params, is_leaf=lambda x: hasattr(x, "eqns") or hasattr(x, "jaxpr")):
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                yield from equations(inner)


def test_progress_counts_every_problem_and_results_stream_as_they_end():
    model = RandomModel(babble(TOKENIZER))
    solver = RecursiveDecoder(model, TOKENIZER, SMALL)
    seen = []
    results = solver.solve([f"{n}" for n in range(10)], lambda ended, total: seen.append((ended, total)))
    assert seen == [(n, 10) for n in range(1, 11)]
    streamed = dict(solver.stream([f"{n}" for n in range(10)]))
    assert [streamed[n] for n in range(10)] == results
    assert solver.solve([]) == []
