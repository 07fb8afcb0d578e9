"""Four devices write the text of one: slots over `data` and `fsdp`, weights over `fsdp` and `tensor`, heads over `tensor`."""

import dataclasses
import re

import jax
import pytest
from flax import nnx
from scripted import MixedModel, babble
from test_decoder_memo import CONFIG, TOKENIZER

from retune_jax.decoding import RecursiveDecoder
from retune_jax.decoding.decoder import advance
from retune_jax.models import presets, sharding
from retune_jax.models.llama import Llama

PROMPTS = [f"{number}" for number in range(16)]


@pytest.fixture(scope="module")
def alone():
    shape = dataclasses.replace(
        presets.get("tiny"), vocab_size=TOKENIZER.vocab_size, layers=2, width=32, kv_heads=2, head_width=8, hidden=64
    )
    model = MixedModel(Llama(shape, None, remat="none", rngs=nnx.Rngs(0)), babble(TOKENIZER), scale=0.25)
    config = dataclasses.replace(CONFIG, slots=8, memo=64)
    return model, config, RecursiveDecoder(model, TOKENIZER, config).solve(PROMPTS)


@pytest.mark.slow
@pytest.mark.parametrize(("data", "fsdp", "tensor", "stack"), [(1, 2, 2, "keep"), (2, 1, 2, "offload")])
def test_a_mesh_writes_what_one_device_does(alone, data, fsdp, tensor, stack):
    model, config, expected = alone
    assert sum(result.calls for result in expected) > 3
    mesh = sharding.make_mesh(data, fsdp, tensor)
    graphdef, params = nnx.split(model)
    model = nnx.merge(graphdef, jax.device_put(params, sharding.shardings(params, mesh)))
    decoder = RecursiveDecoder(model, TOKENIZER, dataclasses.replace(config, stack=stack))
    assert decoder.solve(PROMPTS) == expected
    state, _ = decoder._rest
    for leaf in (leaf for leaf in jax.tree.leaves(state.stack) if leaf.shape[1] == 2):
        part = leaf.sharding.shard_shape(leaf.shape)
        assert part == (8 // (data * fsdp), 2 // tensor, *leaf.shape[2:]), "each device holds its slots and heads only"
    assert decoder.solve(PROMPTS[:3]) == expected[:3]
    if stack == "keep":
        text = advance.lower(
            decoder._graphdef, decoder._words, decoder.config, decoder._params, decoder._tables, decoder._idle()[0], mesh
        ).compile()
        gathered = re.findall(r"= \S+\[8,\d+,(\d+),\d+\]\S* all-gather", text.as_text())
        assert not gathered, "no device sees another's keys and values"
