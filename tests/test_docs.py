"""The documentation builds without a warning, and its figures are made by their command."""

import os
import re
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
