"""The documentation builds without a warning, and the tutorial does what it says, as it is written."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"


def environment(**more):
    return {**os.environ, "PYTHONPATH": str(ROOT), "NO_MKDOCS_2_WARNING": "1", **more}


def test_the_site_builds_without_a_warning_and_holds_every_page(tmp_path):
    pytest.importorskip("material", reason="no MkDocs Material here: pip install '.[docs]'")
    pytest.importorskip("mkdocstrings", reason="no mkdocstrings here: pip install '.[docs]'")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment())
    assert done.returncode == 0, done.stderr
    pages = {path.relative_to(DOCS).with_suffix(".html") for path in DOCS.rglob("*.md")}
    assert all((tmp_path / page).exists() for page in pages)
    reference = (tmp_path / "reference.html").read_text()
    assert 'id="retune_jax.tasks.task.Task.solve"' in reference
    assert not re.search(r"https?://fonts", (tmp_path / "index.html").read_text())


def test_the_figures_are_made_by_their_command(tmp_path):
    command = [sys.executable, str(DOCS / "draw_figures.py"), str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True, env=environment())
    assert {path.name for path in tmp_path.iterdir()} == {path.name for path in (DOCS / "figures").iterdir()}
    concepts = (DOCS / "concepts.md").read_text()
    assert all(f"figures/{path.name}" in concepts and path.stat().st_size > 5000 for path in tmp_path.iterdir())


@pytest.mark.slow
def test_the_tutorial_does_what_it_says(tmp_path):
    tutorial = (DOCS / "tutorial.md").read_text()
    assert '```python\n--8<-- "tutorial/brackets.py"\n```' in tutorial
    shutil.copy(DOCS / "tutorial" / "brackets.py", tmp_path)
    said = []
    # One device and XLA's usual care: a reader's machine, not that of the other tests.
    own = {"XLA_FLAGS": "", "HOME": str(tmp_path)}
    for block in re.findall(r"^```sh\n(.*?)^```", tutorial, re.MULTILINE | re.DOTALL):
        block = block.replace("python ", f"{sys.executable} ", 1)
        done = subprocess.run(["bash", "-euc", block], cwd=tmp_path, capture_output=True, text=True, env=environment(**own))
        assert done.returncode == 0, f"{block}\n{done.stderr}"
        said.append(done.stdout)
    checked, taught, trained, solved = said
    for line in re.search(r"line by line:\n\n```\n(.*?)```", tutorial, re.DOTALL)[1].splitlines():
        assert line == "…" or line in checked.splitlines()
    assert json.loads(taught.splitlines()[0])["output"] == "Call: How deep is [1, 0]?"
    folder = tmp_path / "runs" / "brackets.Brackets-retune-tiny"
    assert (folder / "report.html").exists() and "length  problems" in trained
    accuracy = {row["length"]: row["accuracy"] for row in json.loads((folder / "eval.json").read_text())["rows"]}
    assert min(accuracy[length] for length in (4, 8, 12)) >= 0.8, "as trained"
    assert accuracy[16] >= 0.5 and accuracy[20] >= 0.3, "longer than any that was trained on"
    assert "Solution: ⟦Call: How deep is [1, 0, 1, 1, 0, 0, 0]?⟧" in solved
