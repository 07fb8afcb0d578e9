"""Runs command lines as a user would, many a second: a process that has imported everything forks one for each.

    with Commands(folder) as commands:
        done = commands.run("retune_jax.train", "--config=configs/absent.py")
        done.code, done.out, done.err, done.seconds

What differs from `python -m retune_jax.train` is that imports are done (and that Ctrl-C is not answered by
`retune_jax.interrupts`). It is for commands that end before they compute: a forked process cannot rely on JAX. Tests of
start-up, of variables and of signals start processes of their own.
"""

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Done:
    """How a command ended."""

    code: int
    out: str
    err: str
    seconds: float


class Commands:
    """The forking process, in the folder where its commands run."""

    def __init__(self, folder: Path):
        self.folder = folder

    def __enter__(self):
        env = dict(os.environ, PYTHONPATH=f"{ROOT}:{self.folder}", PYTHONDONTWRITEBYTECODE="1")
        self._process = subprocess.Popen(
            [sys.executable, __file__], cwd=self.folder, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        return self

    def __exit__(self, *exception):
        self._process.stdin.close()
        self._process.wait(20)
        self._process.stdout.close()

    def run(self, module: str, *arguments: str, reach: str = "") -> Done:
        """`python -m module arguments…`; one that takes more than a minute is ended.

        Args:
            reach: a function, as `package.module:name`; the command ends where it is called, with exit code 0.
        """
        print(json.dumps([module, arguments, reach]), file=self._process.stdin, flush=True)
        return Done(**json.loads(self._process.stdout.readline()))


def python(code, *arguments, **variables):
    """A process that runs `code` as a command of this project does: its signals are answered by `interrupts`."""
    begin = "from retune_jax import interrupts; interrupts.install()\n"
    env = dict(os.environ, PYTHONPATH=str(ROOT), **variables)
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([sys.executable, "-c", begin + code, *map(str, arguments)], env=env, **pipes)


def until(condition, seconds=30):
    """Waits until it holds; an assertion fails after so many seconds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def _serve():
    import importlib
    import runpy
    import signal
    import tempfile
    import time
    import warnings

    import retune_jax.evaluation.run
    import retune_jax.evaluation.solver
    import retune_jax.evaluation.terminal
    import retune_jax.training.loop  # noqa: F401

    answers = os.fdopen(os.dup(1), "w")
    for line in sys.stdin:
        module, arguments, reach = json.loads(line)
        with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
            begun = time.monotonic()
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of forking; no thread of JAX runs yet
                child = os.fork()
            if not child:
                signal.alarm(60)
                os.dup2(out.fileno(), 1)
                os.dup2(err.fileno(), 2)
                sys.argv = [module, *arguments]
                if reach:
                    place, _, name = reach.partition(":")
                    owner = importlib.import_module(place)
                    *parents, name = name.split(".")
                    for parent in parents:
                        owner = getattr(owner, parent)
                    setattr(owner, name, lambda *_, **__: os._exit(0))
                sys.modules.pop(module, None)
                code = 70
                try:
                    runpy.run_module(module, run_name="__main__", alter_sys=True)
                    code = 0
                except SystemExit as ended:
                    code = ended.code if isinstance(ended.code, int) else 0 if ended.code is None else 1
                    if isinstance(ended.code, str):
                        print(ended.code, file=sys.stderr)
                except BaseException:
                    sys.excepthook(*sys.exc_info())
                    code = 1
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(code)
            code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
            seconds = time.monotonic() - begun
            out.seek(0)
            err.seek(0)
            told = {"code": code, "out": out.read(), "err": err.read(), "seconds": seconds}
            print(json.dumps(told), file=answers, flush=True)


if __name__ == "__main__":
    _serve()
