"""report.html: what a run did and how far it can be trusted, as one file that needs nothing else.

Every evaluation writes one into its folder; runs side by side come from

    python -m retune_jax.report --workdirs=runs/parity-retune-tiny,runs/parity-scratchpad-tiny --output=both.html

The page is `page.html` with its style (`page.css`), its script (`charts.js` draws, `tree.js` browses call trees, `page.js` puts
the page together) and the runs' results as JSON inside. It fetches nothing, and its policy forbids it to. Whatever a model
wrote reaches the page as text, never as markup: the script only ever sets `textContent`.
"""

import json
from collections.abc import Sequence
from pathlib import Path

import retune_jax
from retune_jax import disk
from retune_jax.errors import UserError

FILE = "report.html"
HERE = Path(__file__).parent
CURVES = ("loss", "token_accuracy", "learning_rate", "grad_norm", "tokens_per_s")
POINTS = 400  # of a training curve


def build(runs: Sequence[dict]) -> str:
    """The page for runs as `read` returns them."""
    page = (HERE / "page.html").read_text(encoding="utf-8")
    script = "\n".join((HERE / name).read_text(encoding="utf-8") for name in ("charts.js", "tree.js", "page.js"))
    data = json.dumps({"version": retune_jax.__version__, "runs": list(runs)}, ensure_ascii=False)
    # Inside a script element only `<` could end it; U+2028 and U+2029 end lines in old JavaScript.
    for character in "<>&\u2028\u2029":
        data = data.replace(character, f"\\u{ord(character):04x}")
    for place, text in (("STYLE", (HERE / "page.css").read_text(encoding="utf-8")), ("SCRIPT", script), ("DATA", data)):
        page = page.replace(f"/*{place}*/", text, 1)
    return page


def read(folder: Path) -> dict:
    """What a page shows of the evaluation in `folder`. Raises UserError where there is none."""
    report = _json(folder / "eval.json")
    if not isinstance(report, dict) or not {"task", "method", "trained_lengths", "rows"} <= set(report):
        raise UserError(f"{folder / 'eval.json'} is not what an evaluation writes")
    samples = _json(folder / "samples.json") if (folder / "samples.json").exists() else {}
    return shown(folder.resolve().name, report, samples, folder)


def shown(name: str, report: dict, samples: dict, run: Path) -> dict:
    """What a page shows of an evaluation.

    Args:
        name: what to call it beside others.
        report: the contents of eval.json.
        samples: the contents of samples.json; empty where there is none.
        run: the folder with the run's metrics.jsonl.
    """
    config = samples.get("config", {})
    return {
        **report,
        "name": name,
        "model": config.get("model", ""),
        "config": _flat(config),
        "command": samples.get("command", ""),
        "opening": samples.get("opening", "\nSolution:"),
        "facts": samples.get("facts", {}),
        "wrong": samples.get("wrong", []),
        "trees": samples.get("trees", []),
        "curves": curves(run / "metrics.jsonl"),
    }


def curves(path: Path) -> dict[str, list[list[float]]]:
    """The training curves in a metrics.jsonl, {name: [[step, value], …]}, thinned out; none where there is no file."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError:
        return {}
    found: dict[str, list[list[float]]] = {}
    for line in lines:
        try:
            values = json.loads(line)
        except ValueError:  # a last line that a kill cut short
            continue
        for name in CURVES:
            value = values.get(name)
            if isinstance(value, int | float) and abs(value) < float("inf"):
                found.setdefault(name, []).append([values["step"], value])
    return {name: points[:: max(1, len(points) // POINTS)] for name, points in found.items()}


def write(runs: Sequence[dict], path: Path):
    """Writes the page, in one go."""
    with disk.replacing(path) as fresh:
        fresh.write_text(build(runs), encoding="utf-8")


def _json(path: Path):
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}") from error


def _flat(tree: dict, prefix: str = "") -> dict[str, object]:
    flat: dict[str, object] = {}
    for key, value in tree.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return flat
