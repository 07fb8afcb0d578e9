"""Who takes part in a run: from flags, from three environment variables, or from the scheduler that started the process.

The first of these that says anything decides:

    --coordinator=HOST:PORT --processes=N --process=I
    JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES, JAX_PROCESS_ID      set by launch/local.sh and launch/jobset.yaml
    Slurm (inside srun), Open MPI, an indexed Kubernetes job, Cloud TPU: as JAX detects them

A run of one process is no cluster at all.
"""

import os
import warnings
from dataclasses import dataclass

from retune_jax.errors import UserError

VARIABLES = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")

# How many processes the scheduler put on this host.
PROCESSES_ON_HOST = ("OMPI_COMM_WORLD_LOCAL_SIZE", "SLURM_STEP_TASKS_PER_NODE")


@dataclass(frozen=True)
class Place:
    """The place of this process among all.

    Attributes:
        coordinator: "host:port" where process 0 listens.
        processes, process: how many there are, and which this is.
        local_devices: the accelerators of the host that are this process's own; None for all that it sees.
    """

    coordinator: str
    processes: int
    process: int
    local_devices: list[int] | None


def find(coordinator: str | None, processes: int | None, process: int | None) -> Place | None:
    """The place of this process; None where it runs alone.

    Args:
        coordinator, processes, process: what the flags say, None where they do not.

    Raises:
        UserError: flags or variables that do not make a whole.
    """
    flags = {"--coordinator": coordinator, "--processes": processes, "--process": process}
    variables = {name: os.environ.get(name) for name in VARIABLES}
    for given in (flags, variables):
        if any(value is not None for value in given.values()):
            return _place(given)
    return _detected()


def _place(given: dict) -> Place | None:
    names = list(given)
    if missing := [name for name in names if given[name] is None]:
        there = [name for name in names if name not in missing]
        raise UserError(f"{', '.join(there)} without {', '.join(missing)}: give all three of them")
    try:
        coordinator, processes, process = given[names[0]], int(given[names[1]]), int(given[names[2]])
    except ValueError as error:
        raise UserError(f"{names[1]} and {names[2]} are whole numbers: {error}") from error
    host, colon, port = coordinator.rpartition(":")
    if not (host and colon and port.isdigit() and 0 < int(port) < 65536):
        raise UserError(f"{names[0]}: {coordinator!r} is not HOST:PORT")
    if not 0 <= process < processes:
        raise UserError(f"{names[2]}: {process} is not in 0..{processes - 1}, the processes of {names[1]}={processes}")
    return Place(coordinator, processes, process, None) if processes > 1 else None


def _detected() -> Place | None:
    from jax._src.clusters import ClusterEnv  # what jax.distributed.initialize itself asks

    for kind in ClusterEnv._cluster_types:
        if kind.opt_in_only_method or (kind.name == "k8s" and "JOB_COMPLETION_INDEX" not in os.environ):
            continue  # a lone pod is no cluster, and asking for one needs permissions
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of packages that another cluster would need
            if not kind.is_env_present():
                continue
        processes = kind.get_process_count()
        if processes < 2:
            return None
        address = kind.get_coordinator_address(60, os.environ.get("JAX_COORDINATOR_PORT"))
        return Place(address, processes, kind.get_process_id(), _own_devices(kind.get_local_process_id()))
    return None


def _own_devices(local_process: int | None) -> list[int] | None:
    """One accelerator a process, unless the process is alone on its host: then all of them."""
    alone = any(os.environ.get(name, "").split("(")[0] == "1" for name in PROCESSES_ON_HOST)
    if local_process is None or alone or "JAX_LOCAL_DEVICE_IDS" in os.environ:
        return None
    if "," not in os.environ.get("CUDA_VISIBLE_DEVICES", ","):
        return None  # the scheduler shows each process its own one only
    return [local_process]
