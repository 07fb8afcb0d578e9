"""What `solve` shows is what the model wrote, marked where it is wrong; the second start compiles nothing."""

import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import small_run
from scripted import ScriptedModel, bits_tree, script_of

from retune_jax import compiled, solve, tasks, tokenizer
from retune_jax import config as recipes
from retune_jax.errors import UserError
from retune_jax.evaluation import calltree, transcript
from retune_jax.evaluation.solver import Solver
from retune_jax.evaluation.terminal import Terminal
from retune_jax.protocol import Context, Segment

ROOT = Path(__file__).parents[1]
PARITY = tasks.get("parity")
OPENING = "\nSolution:"


def plain(tree, opening=OPENING):
    return "".join(text for text, _ in transcript.pieces(tree, opening, brackets=True))


# Records


def test_records_hold_the_whole_tree_in_the_order_of_opening():
    tree = bits_tree((1, 0, 1, 1))
    records = calltree.records(PARITY, "retune", tree)
    assert [record["prompt"] for record in records] == [context.prompt for context in tree.walk()]
    assert [record["depth"] for record in records] == [0, 1, 2, 3]
    assert [record["caller"] for record in records] == [None, 0, 1, 2]
    assert [[segment["callee"] for segment in record["segments"]] for record in records] == [
        [1, None],
        [2, None],
        [3, None],
        [None],
    ]
    assert [record["value"] for record in records] == [record["right_value"] for record in records] == ["1", "0", "0", "1"]
    assert not any("wrong" in segment for record in records for segment in record["segments"])
    assert json.loads(json.dumps(records)) == records


def test_several_calls_of_one_context_find_their_callees():
    dp = tasks.get("dynamic_programming")
    tree = dp.written(dp.parse("[3, 1, 2]"), "retune")
    records = calltree.records(dp, "retune", tree)
    for index, record in enumerate(records):
        for segment in record["segments"]:
            if segment["callee"] is not None:
                callee = records[segment["callee"]]
                assert callee["caller"] == index and callee["prompt"] in segment["text"]
    assert max(len(record["segments"]) for record in records) > 2, "a context that calls twice"


def test_a_mistake_is_marked_where_it_was_made_and_explained():
    records = calltree.records(PARITY, "retune", bits_tree((1, 1, 0), at2=0))
    wrong = [(n, segment) for n, record in enumerate(records) for segment in record["segments"] if "wrong" in segment]
    assert wrong == [(1, {"text": " 0", "callee": None, "wrong": "wrong_computation", "right": " 1"})]
    assert calltree.first_mistake(records) == {
        "context": 1,
        "depth": 1,
        "kind": "wrong_computation",
        "asked": "What is the parity of [1, 0]?",
        "returned": ["0"],
        "wrote": " 0",
        "right": " 1",
    }
    assert "(from a wrong value; the true one is 0)" in plain(records).splitlines()[-1]


@pytest.mark.parametrize("method", ["scratchpad", "baseline"])
def test_the_methods_without_calls_are_judged_as_a_whole(method):
    right = PARITY.written((1, 1), method)
    (record,) = calltree.records(PARITY, method, right)
    assert record["right_value"] == record["value"] == "0" and "wrong" not in record["segments"][0]
    (record,) = calltree.records(PARITY, method, Context(right.prompt, (Segment(" 1"),)))
    assert record["segments"][0]["right"] == right.segments[0].text


def test_a_problem_that_ended_early_is_explained_by_its_status():
    cycle = Context("What is the parity of [1]?", (Segment(" Call: What is the parity of [1]?\n"),), "cycle")
    assert calltree.first_mistake(calltree.records(None, "retune", cycle))["kind"] == "cycle"
    full = Context("hello", (), "context_full")
    assert calltree.first_mistake(calltree.records(None, "retune", full))["kind"] == "context_full"
    assert plain(calltree.records(None, "retune", full)) == "hello\nSolution:\n✗ context_full\n"


# Transcripts


def test_a_transcript_says_all_that_was_written_and_pasted_in_order():
    assert plain(calltree.records(PARITY, "retune", bits_tree((0, 1), at1=0))) == (
        "What is the parity of [0, 1]?\n"
        "Solution: ⟦Call: What is the parity of [1]?⟧\n"
        "│ What is the parity of [1]?\n"
        "│ Solution: ⟦0⟧   ✗ right: 1\n"
        "Return: 0\n"
        "Answer: ⟦0⟧   (from a wrong value; the true one is 1)\n"
    )


def test_what_a_model_writes_cannot_steer_the_terminal():
    tree = Context("say \x1b[2J", (Segment(" \x1b]0;title\x07[red]no[/red]\r"),))
    shown = plain(calltree.records(None, "retune", tree))
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f]", shown) and "␛]0;title␇[red]no[/red]" in shown


def test_what_is_not_carried_is_not_shown_as_if_it_were():
    tree = PARITY.written((0, 1), "no_carry")
    assert plain(calltree.records(PARITY, "no_carry", tree)).splitlines()[-2:] == ["Return: ", "Answer: ⟦1⟧"]


def test_a_task_is_judged_by_the_tasks_that_it_calls_too():
    multiplication = tasks.get("multiplication")
    tree = tasks.trace(multiplication, multiplication.parse("12 * 34"))
    records = calltree.records(multiplication, "retune", tree)
    assert any("+" in record["prompt"] for record in records)
    assert all(record["value"] == record["right_value"] for record in records)


def test_deep_trees_stay_narrow_and_quick():
    bits = (1, 0) * 1000
    text = plain(calltree.records(None, "retune", bits_tree(bits)))
    assert text.count("\n") == 3 * len(bits) + len(bits) - 2
    assert max(len(line) - len(line.lstrip("│ ")) for line in text.splitlines()) < 40


# The solver, with a model whose text is known


def solver(trees, method="retune", **decode):
    config = small_run.settle(recipes.recipe(f"method={method}", task="parity"))
    config.decode.update({"steps_per_advance": 1, **decode})
    words = tokenizer.tiny()
    script = script_of(words, trees, config.decode.opening)
    return Solver(config, ScriptedModel(script, words.vocab_size, words.eos), words)


HELLO = Context("hello", (Segment(" world"),))
RIGHT, WRONG = bits_tree((1, 0, 1)), bits_tree((0, 1, 1, 1), at4=0)


def test_problems_are_read_as_the_task_does_and_free_prompts_run_too():
    records = list(solver([RIGHT, HELLO, WRONG]).solve(["[1,0, 1]", "hello", WRONG.prompt]))
    assert [record["problem"] for record in records] == ["[1,0, 1]", "hello", WRONG.prompt]
    assert [record["prompt"] for record in records] == [RIGHT.prompt, "hello", WRONG.prompt]
    assert [record["value"] for record in records] == ["0", "world", "0"]
    assert [record["answer"] for record in records] == ["0", None, "1"]
    assert [record["correct"] for record in records] == [True, None, False]
    assert [record["task"] for record in records] == ["parity", None, "parity"]
    assert [record["first_mistake"] is None for record in records] == [True, True, False]
    assert records[2]["first_mistake"]["right"] == " 1"
    assert all(json.loads(json.dumps(record)) == record for record in records)


def test_a_transcript_only_grows_while_the_model_writes():
    seen = []
    trees = [bits_tree((1, 0, 1, 1, 0)), HELLO]
    one = solver(trees, slots=1, draft=False)
    *_, last = one.solve([tree.prompt for tree in trees], lambda number, tree: seen.append((number, plain(tree))))
    assert len(seen) > 20 and {number for number, _ in seen} == {0, 1}
    ends = [plain(calltree.records(PARITY, "retune", trees[0])), plain(last["contexts"])]
    for number, text in seen:
        assert ends[number].startswith(text)
    texts = [text for number, text in seen if number == 0]
    assert texts == sorted(texts, key=len) and len(set(texts)) > 10


class Terminals(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self):
        return True


def test_a_terminal_gets_colours_and_growth_and_a_pipe_plain_text(monkeypatch):
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    terminal, pipe = Terminals(), io.StringIO()
    for stream in (terminal, pipe):
        Terminal(stream).show(solver([RIGHT, WRONG]), ["[1, 0, 1]", WRONG.prompt])
    bare = re.sub(r"\x1b\[[0-9;]*m", "", terminal.getvalue())
    assert "\x1b[" in terminal.getvalue() and "\x1b" not in pipe.getvalue()
    assert re.sub(r"[\d.]+ s", "", bare) == re.sub(r"[\d.]+ s", "", pipe.getvalue()).replace("⟦", "").replace("⟧", "")
    first, second = pipe.getvalue().split("\n\n")[:2]
    assert first.endswith("= 0   right   (3 contexts, depth 2, 37 tokens)")
    assert "Answer: ⟦0⟧   ✗ right: 1\n= 0   wrong, the answer is 1   (" in second


# The command


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The folder of a run."""
    return small_run.make(tmp_path_factory.mktemp("trained"))


def command(*problems, **values):
    """The command, in this process."""
    solve.run(list(problems), **{"file": None, "as_json": False, "interactive": False, **values})


def test_a_file_is_answered_in_its_order_and_as_json_with_what_was_measured(trained, tmp_path, capsys):
    lines = [f"[{', '.join('01'[n >> k & 1] for k in range(1 + n % 4))}]" for n in range(9)] + ["what else"]
    (tmp_path / "problems.txt").write_text("\n\n".join(lines) + "\n")
    command(workdir=str(trained), file=str(tmp_path / "problems.txt"))
    plain_lines = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert [line[0] for line in plain_lines] == lines
    command(workdir=str(trained), file=str(tmp_path / "problems.txt"), as_json=True)
    records = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [record["problem"] for record in records] == lines
    verdicts = {True: "right", False: "wrong", None: "unchecked"}
    assert [[record["status"], verdicts[record["correct"]]] for record in records] == [line[2:] for line in plain_lines]
    for record in records:
        ended = [s for c in record["contexts"] for s in c["segments"] if record["status"] == "ok" or "tokens" in s]
        assert sum(segment["tokens"] for segment in ended) <= record["tokens"]
        assert record["status"] != "ok" or sum(segment["tokens"] for segment in ended) == record["tokens"]
        assert all(segment["log_probability"] < 0 for segment in ended)


def test_a_conversation_goes_on_until_the_input_ends(trained, monkeypatch, capsys):
    monkeypatch.setattr("sys.stdin", io.StringIO("[1, 0]\n\nfree text\n"))
    command(workdir=str(trained), interactive=True)
    shown = capsys.readouterr().out
    assert shown.startswith("What is the parity of [1, 0]?\nSolution: ⟦") and "\n\nfree text\nSolution: ⟦" in shown


@pytest.mark.parametrize(
    "problems, values, words",
    [
        ([], {}, "give problems"),
        (["[1]"], {"interactive": True}, "give problems"),
        (["[1]"], {"workdir": "nowhere"}, "nowhere is not the folder of a run"),
        ([], {"file": "missing.txt"}, "missing.txt cannot be read: No such file"),
        ([], {"file": "empty.txt"}, "empty.txt has no problems in it"),
        ([], {"file": "binary.txt"}, "binary.txt cannot be read"),
        ([], {"interactive": True, "as_json": True}, "--json"),
    ],
    ids=str,
)
def test_a_mistake_is_one_line(trained, tmp_path, monkeypatch, problems, values, words):
    monkeypatch.chdir(tmp_path)
    Path("empty.txt").write_text("\n \n")
    Path("binary.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match=words) as error:
        command(*problems, **{"workdir": str(trained), **values})
    assert "\n" not in str(error.value)


@pytest.mark.slow
def test_the_second_start_compiles_nothing_new(trained, tmp_path):
    own = (
        "JAX_COMPILATION_CACHE_DIR",
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES",
    )
    environment = {name: value for name, value in os.environ.items() if name not in own} | {"HOME": str(tmp_path)}
    folder = tmp_path / compiled.FOLDER.relative_to("~")
    kept = []
    for _ in range(2):
        done = subprocess.run(
            [sys.executable, "-m", "retune_jax.solve", f"--workdir={trained}", "[1, 0]", "--json"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            env=environment,
        )
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["problem"] == "[1, 0]"
        kept.append({path.name for path in folder.iterdir() if not path.name.endswith("-atime")})
    assert kept[0] and kept[0] == kept[1]


def test_the_cache_is_where_the_user_wants_it(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "/elsewhere")
    compiled.keep()
    assert os.environ["JAX_COMPILATION_CACHE_DIR"] == "/elsewhere"
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("HOME", str(tmp_path / "file"))
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR")
    compiled.keep()
    assert "JAX_COMPILATION_CACHE_DIR" not in os.environ, "no folder, no cache, no complaint"
