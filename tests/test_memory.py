"""What a training step keeps: the paper's recipe fits its devices, and nothing of a frozen base is differentiated."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import pytest

from retune_jax import config as recipes
from retune_jax.models import presets
from retune_jax.studies import memory as study
from retune_jax.training import loss, memory

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
def test_the_papers_recipe_fits_the_devices_that_it_should(tmp_path):
    """7B in 24 GiB, 14 with the base in int8, 10 in NF4, from compiled programs: as the command says it."""
    command = [sys.executable, "-m", "retune_jax.study", "memory", "--quick", f"--workdir={tmp_path}"]
    environment = os.environ | {"XLA_FLAGS": "--xla_backend_optimization_level=0"}  # it is the plan of buffers that counts
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    assert "MISSED" not in done.stdout and "| llama_7b | nf4 |" in done.stdout
    rows = json.loads((tmp_path / "study.json").read_text())["rows"]
    assert [(row["model"], row["base"], row["most"]) for row in rows] == [tuple(row) for row in study.PAPER[:3]]
    for row in rows:
        assert 3 < row["weights"] < row["total"] <= row["most"]
        assert row["state"] == pytest.approx(3 * 4 * 32 * 4 * 2 * 4096 * 64 / 2**30, rel=1e-6), "float32: adapter, two moments"


def test_the_gradient_of_the_base_is_never_computed():
    """Taking it as well costs one more product a weight and token, and its buffers; the step has neither."""
    config = recipes.recipe("", task="parity")
    config.train.update({"rows": 2, "attention": "xla"})
    config.data.update({"sequence_length": 64, "context_length": 64})
    graphdef, _, state, frozen, batch, key = memory.abstract(config, presets.get("tiny"))

    def of_adapter(params, frozen, batch, key):
        return loss.gradient(params, frozen, batch, key, graphdef=graphdef, accumulate=1)[1]

    def of_all(params, frozen, batch, key):
        return jax.grad(lambda both: loss.sums(*both, batch, key, graphdef=graphdef)[0])((params, frozen))

    programs = [jax.jit(of).lower(state["params"], frozen, batch, key).compile() for of in (of_adapter, of_all)]
    flops = [program.cost_analysis()["flops"] for program in programs]
    weights = sum(x.size for path, x in jax.tree_util.tree_leaves_with_path(frozen) if "kernel" in str(path))
    product = 2 * batch["tokens_BT"].size * weights
    assert flops[1] - flops[0] > 0.95 * product, "the step lacks the third product"
    sizes = [program.memory_analysis() for program in programs]
    assert sizes[0].output_size_in_bytes < memory.size(state["params"]) + 1000, "what comes out is the adapter's"
    live = [size.output_size_in_bytes + size.temp_size_in_bytes for size in sizes]
    assert live[1] - live[0] > 0.8 * memory.size(frozen), "nor does anything as large as the base live within it"


def test_tokens_and_memory_follow_method_and_length():
    """Re-Tuning's contexts are short and many; a scratchpad's one context grows faster than they do."""
    rows = study.by_length(recipes.recipe("", task="parity"), ["tiny"], [21, 42])
    found = {(row["model"], row["method"], row["length"]): row for row in rows}
    assert {key[1:] for key in found} == {(m, n) for m in ("retune", "scratchpad", "baseline") for n in (21, 42)}
    for row in found.values():
        assert row["longest"] <= row["row"] < row["longest"] + study.GRAIN and 0 < row["trained_tokens"] < row["read_tokens"]
        assert row["total"] == pytest.approx(row["weights"] + row["state"] + row["temporary"])
    needs = [found["tiny", method, 42]["longest"] for method in ("baseline", "retune", "scratchpad")]
    assert needs == sorted(needs)
    assert found["tiny", "retune", 42]["read_tokens"] > 3 * found["tiny", "retune", 21]["read_tokens"], "a context an item"
    assert "| tiny | retune | 21 |" in study.table(rows)
