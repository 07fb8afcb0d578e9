"""A report is one file that explains an evaluation: it opens in a browser, fetches nothing, and shows what went wrong."""

import json
import re
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import small_run
from browser import opened
from scripted import bits_tree

from retune_jax import config as recipes
from retune_jax import report, tasks
from retune_jax.evaluation import accuracy, samples
from retune_jax.protocol import Context, Segment

ROOT = Path(__file__).parents[1]
PARITY = tasks.get("parity")
HOSTILE = "</script><img src=x onerror=alert(1)>"


def result(tree, status="ok"):
    calls = sum(1 for _ in tree.walk()) - 1
    text = tree.segments[-1].text if tree.segments else ""
    return SimpleNamespace(
        prompt=tree.prompt, status=status, text=text, context=tree, calls=calls, depth=calls, tokens=9 * calls
    )


def evaluation(method="retune", lengths=(2, 4, 6), wrong=(), problems=4):
    """What an evaluation of some problems a length writes; those of `wrong` lengths err two items from the end."""
    config = small_run.settle(recipes.recipe(f"method={method}", task="parity"))
    asked, results = [], []
    for length in lengths:
        for number in range(problems):
            bits = tuple(np.random.default_rng([length, number]).integers(0, 2, length).tolist())
            errs = {"at2": 1 - sum(bits[-2:]) % 2} if length in wrong and number % 2 else {}
            asked.append((length, bits))
            results.append(result(bits_tree(bits, **errs)))
    asked.append((lengths[-1], (1,) * lengths[-1]))
    hostile = Context(PARITY.prompt((1,) * lengths[-1]), (Segment(f" Call: {HOSTILE}\n"),), "max_depth")
    results.append(result(hostile, "max_depth"))
    judged = accuracy.judged(PARITY, method, asked, results)
    behind = samples.collect(PARITY, config, asked, results, judged, seconds=1.5)
    work = {"computed": 500, "kept": 40, "guessed": 30, "spared": 20}
    told = {"task": "parity", "method": method, "trained_lengths": [1, 4], "rows": accuracy.rows(judged), "work": work}
    return told, behind


def write(folder, **options):
    """The folder of an evaluated run."""
    folder.mkdir(parents=True)
    told, behind = evaluation(**options)
    (folder / "eval.json").write_text(json.dumps(told))
    (folder / "samples.json").write_text(json.dumps(behind))
    lines = [json.dumps({"step": 10 * n, "loss": 2.0**-n, "token_accuracy": n / 40, "learning_rate": 1e-3}) for n in range(40)]
    (folder / "metrics.jsonl").write_text("\n".join([*lines, '{"step": 400, "lo']))
    return folder


# samples.json


def test_every_wrong_answer_is_explained_by_its_first_wrong_context():
    told, behind = evaluation(wrong=(6,))
    assert len(behind["wrong"]) == sum(row["problems"] - row["correct"] for row in told["rows"]) == 3
    first = behind["wrong"][0]
    asked = first["first_mistake"]["asked"]
    bits = tuple(map(int, re.findall(r"\d", asked)))
    assert len(bits) == 2 and first["first_mistake"]["right"] == f" {sum(bits) % 2}"
    assert first["first_mistake"]["returned"] == [str(bits[1])]
    wrote, right = 1 - sum(bits) % 2, sum(bits) % 2
    assert first["explained"] == f"4 calls deep, asked {asked!r}, got '{bits[1]}' back, wrote '{wrote}', and '{right}' is right"
    assert behind["wrong"][-1]["explained"].startswith(
        "0 calls deep, asked 'What is the parity of [1, 1, 1, 1, 1, 1]?', wrote 'Call: <"
    )
    assert behind["facts"]["problems"] == 13 and behind["facts"]["seconds"] == 1.5


def test_trees_of_every_length_and_outcome_are_kept_within_the_room(monkeypatch):
    _, behind = evaluation(lengths=(2, 3, 4, 5, 6), wrong=(4, 6))
    kept = {(tree["length"], tree["error"]) for tree in behind["trees"]}
    wrong = {(4, "wrong_computation"), (6, "wrong_computation"), (6, "max_depth")}
    assert kept == {(length, None) for length in range(2, 7)} | wrong
    monkeypatch.setattr(samples, "CONTEXTS", 12)
    _, behind = evaluation(lengths=(2, 3, 4, 5, 6), wrong=(4, 6))
    assert 4 < sum(len(tree["contexts"]) for tree in behind["trees"]) <= 12


@pytest.mark.parametrize(
    "argv, typed",
    [
        (["/x/retune_jax/train.py", "--config=configs/a b.py"], "python -m retune_jax.train '--config=configs/a b.py'"),
        (["/x/retune_jax/report/__main__.py", "--workdirs=a"], "python -m retune_jax.report --workdirs=a"),
        (["/x/retune_jax/retune_jax/evaluate.py"], "python -m retune_jax.evaluate"),
        (["mine.py", "1"], "mine.py 1"),
    ],
)
def test_the_command_is_told_as_it_was_typed(argv, typed):
    assert samples.command(argv) == typed


# The page


def test_a_page_holds_all_of_its_data_and_none_of_it_is_markup(tmp_path):
    runs = [report.read(write(tmp_path / "a", wrong=(6,)))]
    page = report.build(runs)
    data = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)[1]
    assert json.loads(data)["runs"] == json.loads(json.dumps(runs))
    assert HOSTILE not in page and "onerror" in data
    assert not re.search(r"""(src|href)=["'](?!data:)""", page.replace(data, "")) and "@import" not in page
    assert "/*" not in re.sub(r"/\*\*.*?\*/", "", page.replace(data, "")), "every place is filled"
    assert [len(points) for points in runs[0]["curves"].values()] == [40, 40, 40]


def test_a_folder_of_an_older_evaluation_does(tmp_path):
    told, _ = evaluation()
    (tmp_path / "eval.json").write_text(json.dumps(told))
    assert report.read(tmp_path)["trees"] == []


def test_the_command_writes_one_page_for_several_runs_or_one_line(tmp_path):
    a, b = write(tmp_path / "a"), write(tmp_path / "b", wrong=(4, 6))

    def run(*arguments):
        command = [sys.executable, "-m", "retune_jax.report", *arguments]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env={"PYTHONPATH": str(ROOT), "PATH": ""})

    done = run(f"--workdirs={a},{b}")
    assert (done.returncode, done.stdout, done.stderr) == (0, "report.html\n", "")
    assert (tmp_path / "report.html").stat().st_size > 30_000
    (tmp_path / "no").mkdir()
    (tmp_path / "no" / "eval.json").write_text('{"rows": []}')
    for arguments, words in [
        ([f"--workdirs={tmp_path}"], "eval.json cannot be read: No such file"),
        (["--workdirs=no"], "is not what an evaluation writes"),
        ([f"--workdirs={a}", "--output=nowhere/x.html"], "--output: nowhere/x.html cannot be written"),
        (["--workdirs="], "no folder is named"),
    ]:
        done = run(*arguments)
        assert (done.returncode, done.stderr.count("\n")) == (2, 1) and words in done.stderr, done.stderr


# In a browser


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """Headless Chromium, or a skip that says why."""
    with opened() as page:
        yield page


def show(page, tmp_path, **options):
    """Opens the report of an evaluation; returns what the page asked the network for, and what it complained about."""
    runs = [report.read(write(tmp_path / "run", **options))]
    report.write(runs, tmp_path / "report.html")
    asked, complaints = [], []
    page.on("request", lambda request: asked.append(request.url))
    page.on("console", lambda message: message.type in ("error", "warning") and complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto((tmp_path / "report.html").as_uri())
    return asked, complaints


def test_it_opens_and_fetches_nothing(page, tmp_path):
    asked, complaints = show(page, tmp_path, wrong=(6,))
    assert page.text_content("h1") == "parity by retune"
    assert page.locator("#accuracy circle").count() == 3
    assert "not computed: 40 kept of callers, 30 by guesses that held, 20 by the memo" in page.locator("#facts").inner_text()
    assert page.locator("#training svg").count() == 3
    assert [url for url in asked if not url.startswith("data:")] == [(tmp_path / "report.html").as_uri()]
    assert complaints == []
    assert page.evaluate("fetch('https://example.com').then(() => 'fetched', () => 'refused')") == "refused"


def test_a_node_unfolds_and_a_wrong_context_is_marked(page, tmp_path):
    show(page, tmp_path, wrong=(6,))
    page.select_option("#filter", "wrong_computation")
    wrong = page.locator("#tree .is-wrong")
    assert wrong.count() == 1, "the way to the first mistake is unfolded"
    assert wrong.get_attribute("aria-level") == "5" and wrong.get_attribute("aria-selected") == "true"
    assert page.locator("#context mark.wrong").count() == 1
    assert "is right" in page.locator("#context .says").inner_text()
    assert page.locator("#tree .is-passed").count() == 4, "the contexts above pass it on"
    page.click("#fold")
    assert page.locator("#tree .node").count() == 1
    page.locator("#tree .node .fold").first.click()
    assert page.locator("#tree .node").count() == 2
    assert page.locator("#tree .node").first.get_attribute("aria-expanded") == "true"


def test_the_keyboard_does_all_of_it(page, tmp_path):
    show(page, tmp_path, wrong=(6,))
    page.select_option("#filter", "wrong_computation")
    page.click("#fold")
    page.locator("#tree .node").first.focus()
    levels = []
    for key in ("ArrowRight", "ArrowRight", "*", "End", "ArrowUp", "ArrowLeft", "Home", "ArrowLeft"):
        page.keyboard.press(key)
        chosen = page.locator('#tree [aria-selected="true"]')
        levels.append((int(chosen.get_attribute("aria-level")), page.locator("#tree .node").count()))
    assert levels == [(1, 2), (2, 2), (2, 6), (6, 6), (5, 6), (5, 5), (1, 5), (1, 1)]
    page.locator("#mistakes tr.opens").first.focus()
    page.keyboard.press("Enter")
    assert page.locator("#context mark.wrong").count() == 1


def test_what_a_model_wrote_is_text(page, tmp_path):
    show(page, tmp_path)
    page.select_option("#filter", "max_depth")
    assert HOSTILE in page.locator("#context pre").inner_text()
    assert page.locator("#context img").count() == 0 and page.locator("img").count() == 0


def test_light_and_dark(page, tmp_path):
    papers = []
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        show(page, tmp_path / scheme)
        papers.append(page.evaluate("getComputedStyle(document.body).backgroundColor"))
        page.screenshot(path=tmp_path / f"{scheme}.png")
    page.click("#theme")
    papers.append(page.evaluate("getComputedStyle(document.body).backgroundColor"))
    assert papers[0] == papers[2] != papers[1]
    page.emulate_media(color_scheme="light")


def test_two_thousand_contexts_stay_quick(page, tmp_path):
    begun = time.perf_counter()
    show(page, tmp_path, lengths=(2, 2000), problems=1)
    page.select_option("#filter", "right")
    page.locator("#problems div").last.click()
    page.click("#unfold")
    assert page.locator("#tree .node").count() == 2000
    page.keyboard.press("End")
    took = page.evaluate(
        "() => { const at = performance.now();"
        " for (const button of ['fold', 'unfold']) document.getElementById(button).click();"
        " document.getElementById('tree').offsetHeight; return performance.now() - at; }"
    )
    assert took < 1500, "to unfold all of it again, in milliseconds"
    assert time.perf_counter() - begun < 60


def test_several_runs_stand_side_by_side(page, tmp_path):
    runs = [report.read(write(tmp_path / name, wrong=wrong)) for name, wrong in (("good", ()), ("bad", (4, 6)))]
    report.write(runs, tmp_path / "both.html")
    page.goto((tmp_path / "both.html").as_uri())
    assert page.text_content("h1") == "parity: 2 runs side by side"
    assert page.locator("#accuracy polyline").count() == 2 and page.locator("#outcomes svg").count() == 2
    assert page.locator("#facts .fact").count() == 2 and "bad" in page.locator("#facts").inner_text()
