"""What a training step of LLaMA costs on 8, 64 and 256 devices, from the program that XLA partitions for them; none is needed.

    python benchmarks/scaling.py [--models=llama_7b,llama_13b] [--devices=8,64,256]     # 10 minutes; a stopped one goes on

The step is the one that `train` runs, with the paper's recipe (rows of 2,048 tokens, LoRA r 64 on q, k, v and o, bfloat16 base,
full rematerialisation) and one row a device (the paper's batch is 8 rows), traced with shapes in place of arrays and
partitioned for a mesh of fake CPU devices. The program is read as the SPMD partitioner leaves it, before anything of the
CPU's own: products and collectives are counted, those in the loop over layers as often as it runs.

    compute        FLOPs of a device / (its peak x EFFICIENCY)
    a collective   bytes that a device sends / the bandwidth of the slowest link in its group
    a step         between the larger of the two sums (communication hidden) and their total (none hidden)

Writes benchmarks/results/scaling.json and .md, which docs/scaling.md explains. Predictions are arithmetic, not measurements.
"""

import argparse
import collections
import json
import math
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

RESULTS = Path(__file__).parent / "results"
EFFICIENCY = 0.5  # of the peak that matrix products of this size reach; training of LLaMA on H100 is reported at 0.4 to 0.6
NODE = 8  # devices that are joined by the fast link

# bfloat16 FLOP/s, memory in bytes, and the bytes/s that a device sends within a node (or over the torus) and beyond it.
MACHINES = {
    "H100": {"flops": 989e12, "memory": 80e9, "inside": 450e9, "beyond": 50e9},  # NVLink 4, InfiniBand NDR 400 Gb/s a GPU
    "H200": {"flops": 989e12, "memory": 141e9, "inside": 450e9, "beyond": 50e9},
    "TPU v5p": {"flops": 459e12, "memory": 95e9, "inside": 200e9, "beyond": 200e9},  # one axis of the ICI torus
}
SIZES = {"f32": 4, "bf16": 2, "f16": 2, "s32": 4, "u32": 4, "pred": 1, "s8": 1, "u8": 1, "s64": 8, "u64": 8}
COLLECTIVES = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")

PAPER_STEPS, PAPER_ROWS = 3900, 8  # 500,000 segments, 128 a step
PAPER_RUNS = 9  # three tasks by three methods, for each model


def partitioned(model: str, mesh_sizes: tuple[int, int, int], rows: int) -> tuple[str, int]:
    """The partitioned program of a step, as text, and the bytes of weights and optimizer that a device holds."""
    import jax
    from jax.sharding import Mesh, NamedSharding, PartitionSpec

    from retune_jax import config as recipes
    from retune_jax.models import presets, sharding
    from retune_jax.training import loss, memory

    config = recipes.recipe(f"model={model}", task="parity")
    config.train.rows = rows
    devices = jax.devices()[: math.prod(mesh_sizes)]
    import numpy as np

    mesh = Mesh(np.array(devices).reshape(mesh_sizes), sharding.AXES, axis_types=(jax.sharding.AxisType.Auto,) * 3)
    graphdef, chosen, state, frozen, batch, key = memory.abstract(config, presets.get(model))
    layout = sharding.shardings(state, mesh)

    def over(tree, where):
        return jax.tree.map(lambda x, to: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=to), tree, where)

    batch = over(batch, {name: NamedSharding(mesh, sharding.BATCH) for name in batch})
    key = jax.ShapeDtypeStruct(key.shape, key.dtype, sharding=NamedSharding(mesh, PartitionSpec()))
    step = loss.make_step(graphdef, chosen, accumulate=1, shardings=layout)
    with jax.set_mesh(mesh):  # as in training
        lowered = step.lower(over(state, layout), over(frozen, sharding.shardings(frozen, mesh)), batch, key)
    with tempfile.TemporaryDirectory() as folder:
        options = {"xla_dump_to": folder, "xla_dump_hlo_pass_re": "spmd-partitioning", "xla_dump_hlo_module_re": ".*step.*"}
        threading.Thread(target=lowered.compile, kwargs={"compiler_options": options}, daemon=True).start()
        found, size = None, -1
        while found is None or found.stat().st_size != size:  # the rest of the compilation, for a CPU, tells us nothing
            size = found.stat().st_size if found else -1
            time.sleep(1)
            found = next(Path(folder).glob("*after_spmd-partitioning*.txt"), None)
        text = found.read_text()
    held = jax.tree.map(
        lambda x, to: math.prod(to.shard_shape(x.shape)) * x.dtype.itemsize, frozen, sharding.shardings(frozen, mesh)
    )
    kept = jax.tree.map(lambda x, to: math.prod(to.shard_shape(x.shape)) * x.dtype.itemsize, state, layout)
    return text, sum(jax.tree.leaves(held)) + sum(jax.tree.leaves(kept))


def count(text: str) -> dict:
    """FLOPs of the products, and bytes sent by kind and group size, of one device and one step."""
    computations = _computations(text)
    times = _times(computations)
    flops, sent, calls = 0, collections.Counter(), collections.Counter()
    for name, lines in computations.items():
        shapes = {}
        for line in lines:
            match = re.match(r"\s*(?:ROOT )?%?([\w.\-]+) = (.*?) ([\w\-]+)\((.*)", line)
            if not match:
                continue
            target, shape, kind, rest = match.groups()
            shapes[target] = shape
            if kind == "dot":
                (left,) = re.findall(r"%([\w.\-]+)", rest)[:1]
                contracted = [int(d) for d in re.search(r"lhs_contracting_dims=\{([\d,]*)\}", rest)[1].split(",")]
                dims = _dims(shapes[left])
                flops += times[name] * 2 * math.prod(_dims(shape)) * math.prod(dims[d] for d in contracted)
            kind = kind.removesuffix("-start")
            if kind in COLLECTIVES:
                group = _group(rest)
                size = _bytes(shape)
                share = {"all-reduce": 2 * (group - 1) / group, "reduce-scatter": group - 1, "collective-permute": 1}
                sent[kind, group] += times[name] * size * share.get(kind, (group - 1) / group)
                calls[kind, group] += times[name]
    return {
        "flops": flops,
        "collectives": [{"kind": k, "group": g, "bytes": sent[k, g], "calls": calls[k, g]} for k, g in sorted(sent)],
    }


def _computations(text: str) -> dict[str, list[str]]:
    found, name = {}, None
    for line in text.splitlines():
        if match := re.match(r"(?:ENTRY )?%?([\w.\-]+) .*\{$", line):
            name = match[1]
            found[name] = []
        elif name and line.startswith("  "):
            found[name].append(line)
    return found


def _times(computations: dict[str, list[str]]) -> collections.Counter:
    """How often each computation runs: the body of a loop as often as its condition's constant says."""
    callers = collections.defaultdict(list)
    for name, lines in computations.items():
        for line in lines:
            if match := re.search(r"while\(.*condition=%?([\w.\-]+), body=%?([\w.\-]+)", line):
                bounds = [int(n) for n in re.findall(r"s32\[\] constant\((\d+)\)", "\n".join(computations[match[1]]))]
                callers[match[2]].append((name, max(bounds, default=1)))
            else:
                for called in re.findall(r"(?:calls|to_apply|body|branch_computations=\{)=?%?([\w.\-]+)", line):
                    callers[called].append((name, 1))

    def times(name):
        return sum(n * times(caller) for caller, n in callers[name]) if callers[name] else 1

    return collections.Counter({name: times(name) for name in computations})


def _dims(shape: str) -> list[int]:
    return [int(d) for d in re.search(r"\[([\d,]*)\]", shape)[1].split(",") if d]


def _bytes(shape: str) -> int:
    parts = re.findall(r"(\w+)\[([\d,]*)\]", shape)
    return sum(SIZES[kind] * math.prod(int(d) for d in dims.split(",") if d) for kind, dims in parts if kind in SIZES)


def _group(rest: str) -> int:
    if match := re.search(r"replica_groups=mesh\[(.*?)\].*? \{('.*?)\}", rest):
        sizes = dict(re.findall(r"'(\w+)'=(\d+)", match[1]))
        return math.prod(int(sizes[axis]) for axis in re.findall(r"'(\w+)'", match[2]))
    if match := re.search(r"replica_groups=\[(\d+),(\d+)\]", rest):
        return int(match[2])
    if match := re.search(r"replica_groups=\{\{([\d,]*)\}", rest):
        return len(match[1].split(","))
    return 2  # a permutation: between two


def predicted(counted: dict, machine: dict, mesh: tuple[int, int, int]) -> tuple[float, float, float, float]:
    """Seconds of a step: computing, communicating, and the least and the most that it can take."""
    compute = counted["flops"] / (machine["flops"] * EFFICIENCY)
    inner = mesh[1] * mesh[2]  # fsdp and tensor groups are neighbours; only groups that span `data` leave the node
    sending = 0.0
    for each in counted["collectives"]:
        inside = each["group"] <= NODE and each["group"] in (mesh[1], mesh[2], inner)
        sending += each["bytes"] / machine["inside" if inside or mesh[0] * inner <= NODE else "beyond"]
    return compute, sending, max(compute, sending), compute + sending


def main():
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--models", default="llama_7b,llama_13b")
    parser.add_argument("--devices", default="8,64,256")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    given = parser.parse_args()
    sizes = [int(n) for n in given.devices.split(",")]
    if given.one:
        model, *mesh = given.one.split(",")
        os.environ["JAX_PLATFORMS"] = "cpu"
        os.environ["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={math.prod(map(int, mesh))}"
        text, held = partitioned(model, tuple(map(int, mesh)), rows=math.prod(map(int, mesh)))
        print(json.dumps({"held": held, **count(text)}), flush=True)
        os._exit(0)  # its compilation goes on
    file, rows = RESULTS / "scaling.json", []
    RESULTS.mkdir(exist_ok=True)
    known = {(row["model"], *row["mesh"]): row for row in json.loads(file.read_text())["rows"]} if file.exists() else {}
    for model in given.models.split(","):
        for devices in sizes:
            for mesh in ((devices, 1, 1), (devices // NODE, NODE, 1), (devices // NODE, 1, NODE)):
                one = ",".join(map(str, (model, *mesh)))
                row = known.get((model, *mesh))
                if row is None:
                    found = subprocess.run(
                        [sys.executable, __file__, f"--one={one}"], stdout=subprocess.PIPE, check=True, text=True
                    )
                    row = {"model": model, "devices": devices, "mesh": mesh, "rows": devices, **json.loads(found.stdout)}
                row["predicted"] = {name: predicted(row, machine, mesh) for name, machine in MACHINES.items()}
                rows.append(row)
                print(f"{one}: {row['flops']:.3g} FLOPs, {_sent(row) / 1e9:.3g} GB sent", flush=True)
                known[(model, *mesh)] = row  # written as it comes: a stopped one goes on
                every = list(known.values())
                file.write_text(json.dumps({"efficiency": EFFICIENCY, "machines": MACHINES, "rows": every}, indent=1) + "\n")
    (RESULTS / "scaling.md").write_text(table(rows))
    print(table(rows))


def _sent(row: dict) -> float:
    return sum(each["bytes"] for each in row["collectives"])


def table(rows: list[dict]) -> str:
    """The tables of docs/scaling.md."""
    names = list(MACHINES)
    lines = [
        "| model | devices | mesh (data, fsdp, tensor) | TFLOPs a device | GB sent | weights and optimizer, GiB |"
        + "".join(f" {n}, s |" for n in names)
    ]
    lines.append("|---|---|---|---|---|---|" + "---|" * len(names))
    for row in rows:
        times = "".join(f" {row['predicted'][n][2]:.2f}-{row['predicted'][n][3]:.2f} |" for n in names)
        lines.append(
            f"| {row['model']} | {row['devices']} | {tuple(row['mesh'])} | {row['flops'] / 1e12:.1f} | {_sent(row) / 1e9:.2f} "
            f"| {row['held'] / 2**30:.1f} |{times}"
        )
    lines += ["", "| model | devices | mesh | collective | group | calls | GB sent |", "|---|---|---|---|---|---|---|"]
    for row in rows:
        for each in row["collectives"]:
            if each["bytes"] > 1e6:
                what = f"{each['kind']} | {each['group']} | {each['calls']} | {each['bytes'] / 1e9:.3f}"
                lines.append(f"| {row['model']} | {row['devices']} | {tuple(row['mesh'])} | {what} |")
    lines += ["", "| the paper's table | device-hours of training |", "|---|---|"]
    for name, machine in MACHINES.items():
        total = 0.0
        for model in sorted({row["model"] for row in rows}):
            a_row = next(row["flops"] for row in rows if row["model"] == model and list(row["mesh"][1:]) == [1, 1])
            total += PAPER_RUNS * PAPER_STEPS * PAPER_ROWS * a_row / (machine["flops"] * EFFICIENCY) / 3600
        lines.append(f"| {name} | {total:.0f} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
