"""The decoder is as large as the problems need, and as the user says."""

import pytest

from retune_jax import config as recipes
from retune_jax import tasks, tokenizer
from retune_jax.errors import UserError
from retune_jax.evaluation import accuracy, sizes
from retune_jax.protocol import Context, Segment


@pytest.mark.parametrize("method", ["retune", "scratchpad", "no_isolation"])
@pytest.mark.parametrize("task", tasks.names())
def test_the_decoder_is_sized_for_the_problems(task, method):
    config = recipes.recipe(f"method={method}", task=task)
    longest = tasks.get(task).trained_lengths[1] * 2
    config.eval.update({"lengths": f"1:{longest}", "problems_per_length": 3})
    chosen = sizes.for_evaluation(config, tokenizer.tiny())
    for _, problem in accuracy.problems(tasks.get(task), [longest], 3):
        tree = tasks.get(task).written(problem, method)
        needed = sizes.need(tree, config.decode.opening, tokenizer.tiny().encode)
        assert needed.window <= chosen.window and needed.stack <= chosen.stack_tokens and needed.depth <= chosen.max_depth
        assert needed.tokens <= chosen.max_tokens and needed.calls <= chosen.max_calls


def test_what_a_solution_needs_is_counted():
    words = str.split
    leaf = Context("c", (Segment("1 2"),))
    tree = Context("a b", (Segment("call it", leaf), Segment("3")))
    # BOS a b open | call it | Return: 2 Answer: | 3, and BOS c open | 1 2; each segment has its EOS
    assert sizes.need(tree, " open", words) == sizes.Need(window=11, stack=6, depth=1, tokens=8, calls=1)


def test_what_the_user_sets_is_kept(capsys):
    config = recipes.recipe("", task="parity")
    config.decode.update({"max_depth": 3, "max_calls": 5, "window": 300})
    chosen = sizes.for_evaluation(config, tokenizer.tiny())
    assert (chosen.max_depth, chosen.max_calls, chosen.window) == (3, 5, 300) and chosen.stack_tokens > 0
    sizes.say(config.decode, chosen, "that")
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and f"decode.stack_tokens={chosen.stack_tokens}" in said and "window" not in said
    config.decode.window = 100
    with pytest.raises(UserError, match=r"100 tokens do not hold a problem of length 40, which takes 188: .*window=208"):
        sizes.for_evaluation(config, tokenizer.tiny())
