"""What is installed from a wheel or a source distribution is whole, small, and works away from the repository."""

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
NEEDED = [
    "retune_jax/assets/tiny/tokenizer.model",
    "retune_jax/assets/tiny/model.json",
    "retune_jax/report/page.html",
    "retune_jax/report/page.css",
    "retune_jax/report/page.js",
    "retune_jax/report/charts.js",
    "retune_jax/report/tree.js",
]


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A wheel and a source distribution of the sources, made in a copy of them; the wheel is made from the distribution."""
    pytest.importorskip("build", reason="no build here: pip install build")
    folder = tmp_path_factory.mktemp("package")
    shutil.copytree(ROOT / "retune_jax", folder / "source" / "retune_jax", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder / "source")
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(folder / "source")]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    (wheel,) = folder.glob("*.whl")
    (source,) = folder.glob("*.tar.gz")
    return wheel, source


def test_wheel_and_source_hold_all_that_is_needed_and_stay_small(built):
    wheel, source = built
    assert wheel.stat().st_size <= 12 * 2**20
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    modules = {str(path.relative_to(ROOT)) for path in (ROOT / "retune_jax").rglob("*.py")}
    assets = {str(path.relative_to(ROOT)) for path in (ROOT / "retune_jax" / "assets").rglob("*") if path.is_file()}
    assert modules | assets | set(NEEDED) <= names
    assert not any(name.startswith(("tests/", "docs/")) for name in names)
    with tarfile.open(source) as archive:
        held = {name.partition("/")[2] for name in archive.getnames()}
    assert modules | assets | set(NEEDED) <= held


@pytest.mark.slow
def test_what_is_installed_works_away_from_the_repository(built, tmp_path):
    wheel, _ = built
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(tmp_path / "site"), str(wheel)]
    subprocess.run(install, check=True, env={**os.environ, "PIP_DISABLE_PIP_VERSION_CHECK": "1"})
    (tmp_path / "elsewhere").mkdir()

    def run(*arguments):
        environment = {**os.environ, "PYTHONPATH": str(tmp_path / "site"), "PYTHONSAFEPATH": ""}
        command = [sys.executable, "-m", *arguments]
        return subprocess.run(command, cwd=tmp_path / "elsewhere", capture_output=True, text=True, env=environment)

    where = run("retune_jax.tasks", "--task=parity", "--method=retune", "--problem=[1, 0]")
    assert (where.returncode, where.stderr) == (0, "") and where.stdout.count("\n") == 3
    (tmp_path / "elsewhere" / "mine.py").write_text(
        "from retune_jax.config import recipe\n\n\ndef get_config(arguments=''):\n    return recipe(arguments, task='parity')\n"
    )
    trained = run(
        "retune_jax.train",
        "--config=mine.py",
        "--config.data.dir=data",
        "--config.data.scale=0.001",
        "--config.data.context_length=128",
        "--config.data.sequence_length=128",
        "--config.train.steps=2",
        "--config.train.rows=4",
        "--config.eval.lengths=1:2",
        "--config.eval.problems_per_length=1",
        "--config.decode.slots=2",
    )
    assert trained.returncode == 0, trained.stderr
    assert (tmp_path / "elsewhere" / "runs" / "parity-retune-tiny" / "report.html").exists()


def test_the_citation_names_the_paper_and_the_version():
    yaml = pytest.importorskip("yaml", reason="no PyYAML here")
    import retune_jax

    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert cited["version"] == retune_jax.__version__
    assert cited["preferred-citation"]["authors"][0]["family-names"] == "Pasewark"
    assert "2407.04787" in cited["preferred-citation"]["identifiers"][0]["value"]
