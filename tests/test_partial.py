"""An evaluation that was interrupted goes on where it was, and so does one on another number of processes."""

import json

import pytest

from retune_jax import distributed, tasks
from retune_jax.decoding import Result
from retune_jax.evaluation import partial
from retune_jax.protocol import Context, Segment
from retune_jax.tasks.task import trace

PARITY = tasks.get("parity")
PROMPTS = [f"What is the parity of {[int(bit) for bit in f'{number:04b}']}?" for number in range(10)]


def result(prompt):
    tree = trace(PARITY, PARITY.parse(prompt))
    return Result(prompt=prompt, status="ok", text=" 1", value="1", context=tree, calls=3, tokens=40, depth=3)


class Decoder:
    """Solves in an order of its own, and dies after `lives` problems."""

    def __init__(self, lives=100):
        self.lives, self.solved = lives, []

    def stream(self, prompts, numbers):
        for number, prompt in sorted(zip(numbers, prompts, strict=True), key=lambda item: item[0] % 3):
            if len(self.solved) == self.lives:
                raise KeyboardInterrupt
            self.solved.append(number)
            yield number, result(prompt)


def as_process(monkeypatch, index, count, left):
    monkeypatch.setattr(distributed, "index", lambda: index)
    monkeypatch.setattr(distributed, "count", lambda: count)
    monkeypatch.setattr(distributed, "is_first", lambda: index == 0)
    monkeypatch.setattr(distributed, "gather", lambda value: [left])  # as process 0 has counted


def test_what_was_solved_before_an_interruption_is_not_solved_again(tmp_path):
    first, second, ended = Decoder(lives=4), Decoder(), []
    with pytest.raises(KeyboardInterrupt):
        partial.solve(first, PROMPTS, tmp_path, "this", ended.append)
    path = tmp_path / partial.FOLDER / "0.jsonl"
    path.write_text(path.read_text() + '[9, {"prompt": "What is')  # a line that a kill cut off
    results = partial.solve(second, PROMPTS, tmp_path, "this", ended.append)
    assert sorted(first.solved + second.solved) == list(range(10))
    assert results == [result(prompt) for prompt in PROMPTS]
    assert sum(ended) == 4 + 4 + 6
    partial.forget(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_results_of_another_evaluation_are_dropped(tmp_path):
    partial.solve(Decoder(), PROMPTS, tmp_path, "this", lambda n: None)
    other = Decoder()
    partial.solve(other, PROMPTS, tmp_path, "that", lambda n: None)
    assert len(other.solved) == 10


def test_processes_share_what_is_left_whoever_solved_the_rest(tmp_path, monkeypatch):
    """Three processes begin, one of them dies, and two others go on."""
    solved = []
    as_process(monkeypatch, 0, 3, list(range(10)))
    folder = tmp_path / partial.FOLDER
    folder.mkdir()
    (folder / "what").write_text("this")
    for index, lives in ((1, 100), (2, 1)):
        as_process(monkeypatch, index, 3, list(range(10)))
        decoder = Decoder(lives)
        try:
            assert partial.solve(decoder, PROMPTS, tmp_path, "this", lambda n: None) is None
        except KeyboardInterrupt:
            assert index == 2
        solved += decoder.solved
    left = [number for number in range(10) if number not in solved]
    for index in (1, 0):
        as_process(monkeypatch, index, 2, left)
        decoder = Decoder()
        results = partial.solve(decoder, PROMPTS, tmp_path, "this", lambda n: None)
        solved += decoder.solved
    assert sorted(solved) == list(range(10))
    assert results == [result(prompt) for prompt in PROMPTS]


def test_a_tree_of_a_thousand_calls_survives_the_file():
    tree = Context("?", (Segment(" 1"),))
    for _ in range(1000):
        tree = Context("?", (Segment(" Call: ?\n", tree), Segment(" 1")), "ok")
    stored = json.loads(json.dumps(partial.to_json(Result("?", "ok", " 1", "1", tree, 1000, 3000, 1000))))
    back, depth = partial.from_json(stored).context, 0
    while back.segments[0].callee:
        assert [segment.text for segment in back.segments] == [" Call: ?\n", " 1"]
        back, depth = back.segments[0].callee, depth + 1
    assert depth == 1000
