"""Many processes as one run: how they find one another, agree, and end together.

    with distributed.joined(FLAGS):          # in train.py and evaluate.py; alone it does nothing
        …
        distributed.is_first()               # who writes files and talks to the user
        distributed.gather(value)            # everybody's value, in the order of the processes
        with distributed.alike(): …          # a mistake that one process meets ends all of them

`cluster.py` finds out who takes part (flags, environment, Slurm, Open MPI, Kubernetes, Cloud TPU), `roll_call.py` holds a
line open between the processes: it says who is missing at the start and who has died since. The arrays are JAX's business:
once all have come, `jax.distributed.initialize` is told where, and from then on `jax.devices()` are everybody's.
"""

import contextlib
import os
import sys
import time
import traceback

from retune_jax import disk
from retune_jax.distributed import cluster
from retune_jax.distributed.roll_call import RollCall
from retune_jax.errors import UserError

_roll: RollCall | None = None


def define_flags():
    """Defines --coordinator, --processes and --process; for a module that holds a command line."""
    from absl import flags

    flags.disclaim_key_flags()  # --help lists them as that module's
    flags.DEFINE_string("coordinator", None, "HOST:PORT of process 0, where no cluster is detected.")
    flags.DEFINE_integer("processes", None, "How many processes take part in the run.")
    flags.DEFINE_integer("process", None, "Which of them this one is, from 0.")
    flags.DEFINE_integer("wait", 300, "Seconds to wait for all processes to come.", lower_bound=1)
    return flags.FLAGS


@contextlib.contextmanager
def joined(flags):
    """Takes part in the run that the flags or the environment describe, until the end of the block.

    Args:
        flags: has `coordinator`, `processes`, `process` and `wait`, as `define_flags` makes them.

    Raises:
        UserError: the description is not complete, or the others do not come in time, or they were told something else.

    A process that fails in the block ends at once, with the same line and exit code as alone; the others are told.
    """
    global _roll
    place = cluster.find(flags.coordinator, flags.processes, flags.process)
    if place is None:
        yield
        return
    import jax

    _roll = RollCall(place, flags.wait)
    try:
        # JAX's own answer to SIGTERM would take the signal away from training/stop.py.
        jax.config.update("jax_enable_preemption_service", False)
        jax.distributed.initialize(
            _roll.coordinator, place.processes, place.process, place.local_devices, cluster_detection_method="deactivate"
        )
        yield
    except BaseException as error:
        if isinstance(error, Exception) and not isinstance(error, UserError):
            time.sleep(1)  # a death makes collectives fail: the thread that hears of it says so, and ends this process
        line, code = _ending(error)
        _roll.leave(line, code)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)  # an orderly exit would wait for processes that may never come
    _roll.gather(None)  # until the last one is done, a death still has to be noticed
    _roll.leave(None)
    jax.distributed.shutdown()
    _roll = None


def _ending(error: BaseException) -> tuple[str, int]:
    """What an exception prints and exits with: printed here, because the process does not get as far as cli.py."""
    if isinstance(error, SystemExit):
        line, code = (error.code, 1) if isinstance(error.code, str) else ("", error.code or 0)
    elif isinstance(error, UserError):
        line, code = f"retune_jax: error: {' '.join(str(error).split())}", 2
    elif isinstance(error, KeyboardInterrupt):
        line, code = "retune_jax: interrupted", 130
    elif (reason := str(error) if isinstance(error, disk.DiskError) else disk.trouble(error)) is not None:
        line, code = f"retune_jax: {reason}", 1
    else:
        traceback.print_exc()
        return f"{type(error).__name__}: {str(error).strip().split(chr(10))[0][:200]}", 1
    if line:
        print(line, file=sys.stderr)
    return line or f"exit code {code}", code


def is_first() -> bool:
    """Whether this is process 0, which writes the files and talks to the user."""
    return _roll is None or _roll.place.process == 0


def index() -> int:
    """Which process this is, from 0."""
    return 0 if _roll is None else _roll.place.process


def count() -> int:
    """How many processes take part."""
    return 1 if _roll is None else _roll.place.processes


def gather(value) -> list:
    """Everybody's value (anything JSON can hold), in the order of the processes; waits until all have called."""
    return [value] if _roll is None else _roll.gather(value)


@contextlib.contextmanager
def alike():
    """What every process does by itself but all must succeed in: a `UserError` of one of them is raised in all."""
    mine = None
    try:
        yield
    except UserError as error:
        mine = error
    theirs = [line for line in gather(None if mine is None else str(mine)) if line]
    if mine is not None:
        raise mine
    if theirs:
        raise UserError(theirs[0])
