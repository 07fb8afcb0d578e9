"""Results as they come: an evaluation that was interrupted goes on, and many processes share one.

    eval.partial/what       what is being evaluated: settings and weights; results of anything else are dropped
    eval.partial/0.jsonl    the results of process 0, a line a problem, in the order in which they ended

Each process takes every n-th of the problems that are left, whoever solved the others, and adds a line when one ends. All files
together are the evaluation. They are removed when it has been written down.
"""

import contextlib
import dataclasses
import hashlib
import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import jax
import numpy as np
from flax import nnx

from retune_jax import distributed
from retune_jax.decoding import RecursiveDecoder, Result
from retune_jax.decoding.result import Work
from retune_jax.models.lora import LoRAParam
from retune_jax.protocol import Context, Segment

FOLDER = "eval.partial"


def solve(
    decoder: RecursiveDecoder, prompts: Sequence[str], workdir: Path, what: str, progress: Callable[[int], None]
) -> list[Result] | None:
    """The results of all problems, in their order, on process 0; None on the others. All processes have to call.

    Args:
        decoder: of this process.
        prompts: all problems; the same on every process.
        workdir: a folder that all processes share.
        what: sets this evaluation apart from any other.
        progress: called with a number of problems that have ended.
    """
    folder = workdir / FOLDER
    if distributed.is_first():
        if not (folder / "what").is_file() or (folder / "what").read_text() != what:
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            (folder / "what").write_text(what)
        done = read(folder)
        progress(len(done))
        left = [number for number in range(len(prompts)) if number not in done]
    else:
        left = None
    left = distributed.gather(left)[0]
    mine = left[distributed.index() :: distributed.count()]
    path = folder / f"{distributed.index()}.jsonl"
    _drop_torn_line(path)
    with path.open("a") as file:
        for number, result in decoder.stream([prompts[number] for number in mine], numbers=mine):
            file.write(json.dumps([number, to_json(result)]) + "\n")
            file.flush()
            progress(1)
    distributed.gather(None)
    if not distributed.is_first():
        return None
    done = read(folder)
    return [done[number] for number in range(len(prompts))]


def forget(workdir: Path):
    """Removes the results, which have been written down."""
    if distributed.is_first():
        shutil.rmtree(workdir / FOLDER, ignore_errors=True)


def fingerprint(settings: dict, model: nnx.Module) -> str:
    """What is evaluated, in few letters: the settings, and the weights that training made."""
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    adapter, others = nnx.state(model, LoRAParam, ...)
    for leaf in jax.tree.leaves(adapter) or jax.tree.leaves(others):
        digest.update(np.asarray(leaf).tobytes())
    return digest.hexdigest()


def read(folder: Path) -> dict[int, Result]:
    """The results that lie in a folder, by number; a line that was cut off is none."""
    done = {}
    for path in sorted(folder.glob("*.jsonl")):
        for line in path.read_text().splitlines():
            with contextlib.suppress(ValueError):
                number, result = json.loads(line)
                done[number] = from_json(result)
    return done


def to_json(result: Result) -> dict:
    """A result as JSON can hold it. Its tree may be hundreds of calls deep, so that the contexts become a flat list."""
    contexts, flat = [result.context], []
    for context in contexts:
        segments = []
        for segment in context.segments:
            if segment.callee is not None:
                contexts.append(segment.callee)
            segments.append(_fields(segment, "callee") | {"callee": segment.callee and len(contexts) - 1})
        flat.append(_fields(context, "segments") | {"segments": segments})
    return _fields(result, "context") | {"context": flat}


def from_json(stored: dict) -> Result:
    """What `to_json` was given."""
    contexts: dict[int, Context] = {}
    for index, context in reversed(list(enumerate(stored["context"]))):  # callees stand behind their callers
        segments = [Segment(**segment | {"callee": contexts.get(segment["callee"])}) for segment in context["segments"]]
        contexts[index] = Context(**context | {"segments": tuple(segments)})
    return Result(**stored | {"context": contexts[0], "work": Work(*stored["work"]), "spoken": ()})


def _fields(value, but: str) -> dict:
    return {field.name: getattr(value, field.name) for field in dataclasses.fields(value) if field.name != but}


def _drop_torn_line(path: Path):
    """Removes what a killed process left of its last line, so that the next one begins a line."""
    if path.exists() and not (text := path.read_bytes()).endswith(b"\n"):
        path.write_bytes(text[: text.rfind(b"\n") + 1])
