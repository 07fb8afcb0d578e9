"""How arrays lie on the mesh `(data, fsdp, tensor)`: one table for weights, adapter, optimizer, batch, activations and cache.

`data` splits the batch only; `fsdp` splits the batch and the weights (gathered when used); `tensor` splits heads and the
feed-forward's inner width. A rule is (pattern of the parameter's path, the mesh axes of its dimensions). An optimizer's
moments end in the path of the parameter they belong to, so that they lie as it does.
"""

import math
import re
import sys

import jax
import numpy as np
from flax import nnx
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from retune_jax.errors import UserError

AXES = ("data", "fsdp", "tensor")
BATCH = PartitionSpec(("data", "fsdp"))
CACHE = PartitionSpec(("data", "fsdp"), "tensor")  # [slots, kv_heads, ...]

# A leading None is the layer axis of the scanned layers.
RULES = (
    (r"(q|k|v|gate|up)/kernel(/codes|/block_codes)?$", (None, "fsdp", "tensor")),
    (r"(o|down)/kernel(/codes|/block_codes)?$", (None, "tensor", "fsdp")),
    (r"(q|k|v|gate|up)/lora/a$", (None, "fsdp", None)),
    (r"(q|k|v|gate|up)/lora/b$", (None, None, "tensor")),
    (r"(o|down)/lora/a$", (None, "tensor", None)),
    (r"(o|down)/lora/b$", (None, None, "fsdp")),
    (r"embedding$", ("tensor", "fsdp")),
    (r"head$", ("fsdp", "tensor")),
)


def make_mesh(data: int, fsdp: int, tensor: int) -> Mesh:
    """The mesh of all devices; one size may be -1, "what is left". A `UserError` names sizes that do not fit."""
    sizes, devices = [data, fsdp, tensor], count_devices()
    shown = f"mesh (data={data}, fsdp={fsdp}, tensor={tensor})"
    if sizes.count(-1) > 1 or any(size < 1 and size != -1 for size in sizes):
        raise UserError(f"{shown}: sizes are positive, and at most one is -1")
    known = 1
    for size in sizes:
        known *= size if size != -1 else 1
    sizes = [devices // known if size == -1 else size for size in sizes]
    if sizes[0] * sizes[1] * sizes[2] != devices:
        raise UserError(f"{shown} does not fit {devices} devices")
    return jax.make_mesh(tuple(sizes), AXES, axis_types=(AxisType.Auto,) * 3)


def count_devices() -> int:
    """How many devices JAX sees, of all processes; a `UserError` where it can use none."""
    try:
        return jax.device_count()
    except (RuntimeError, AssertionError) as error:  # what JAX raises where the platform asked for is not there
        asked = jax.config.jax_platforms or "auto"  # type: ignore[attr-defined]
        reason = " ".join(str(error).split())[:300] or "no such device"
        raise UserError(f"JAX_PLATFORMS={asked}: JAX finds no device to run on: {reason}") from error


def fitting_mesh(data: int, fsdp: int, tensor: int) -> Mesh:
    """The mesh asked for, or where its sizes do not fit the devices here, one like it that does.

    `tensor` and then `fsdp` become the largest size that divides both them and what there is; `data` takes the rest. What was
    laid out one way can be read the other, so a run made on 8 devices is evaluated on 1 or on 4.
    """
    devices = count_devices()
    try:
        return make_mesh(data, fsdp, tensor)
    except UserError:
        if min(data, fsdp, tensor) < -1 or 0 in (data, fsdp, tensor):
            raise
    tensor = math.gcd(tensor, devices) if tensor > 0 else 1
    fsdp = math.gcd(fsdp, devices // tensor) if fsdp > 0 else 1
    mesh = make_mesh(-1, fsdp, tensor)
    shown = ", ".join(f"{axis}={size}" for axis, size in mesh.shape.items())
    print(f"retune_jax: laid out on the {devices} devices here as ({shown})", file=sys.stderr)
    return mesh


def path_name(path) -> str:
    """A JAX key path as `layers/attention/q/kernel`."""
    parts = (getattr(key, "key", getattr(key, "name", getattr(key, "idx", key))) for key in path)
    return "/".join(str(part) for part in parts if str(part) != "value")


def fitting(spec: PartitionSpec, shape: tuple[int, ...], mesh: Mesh | jax.sharding.AbstractMesh) -> PartitionSpec:
    """`spec` for an array of this shape, without the axes that do not divide its dimensions."""

    def parts(axes) -> int:
        return math.prod(mesh.shape[axis] for axis in (axes if isinstance(axes, tuple) else (axes,)) if axis)

    return PartitionSpec(*(axes if axes and size % parts(axes) == 0 else None for axes, size in zip(spec, shape)))


def spec_of(name: str, shape: tuple[int, ...], mesh: Mesh) -> PartitionSpec:
    """The partition of the array called `name`; a dimension that its mesh axes do not divide is not split."""
    for pattern, axes in RULES:
        if re.search(pattern, name) and len(axes) == len(shape):
            return fitting(PartitionSpec(*axes), shape, mesh)
    return PartitionSpec()


def rows_apart(x: jax.Array) -> jax.Array:
    """Activations [B, …] whose rows stay on the devices that hold them in the batch; nothing outside of `jax.set_mesh`.

    Without a word XLA takes the weights' split for theirs: it spreads the width over `fsdp` and adds up every product of every
    row, where gathering a layer's weights sends a fraction of that.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or not set(AXES) <= set(mesh.axis_names):
        return x
    return jax.lax.with_sharding_constraint(x, PartitionSpec(*BATCH, *[None] * (x.ndim - 1)))


def row_devices() -> int:
    """Over how many devices the rows of a batch are spread, inside of `jax.set_mesh`; else 1."""
    mesh = jax.sharding.get_abstract_mesh()
    return 1 if mesh.empty or not set(AXES) <= set(mesh.axis_names) else mesh.shape["data"] * mesh.shape["fsdp"]


def shardings(tree, mesh: Mesh):
    """A tree of `NamedSharding`s for a tree of (abstract) arrays: weights, adapter or optimizer state."""

    def one(path, leaf):
        return NamedSharding(mesh, spec_of(path_name(path), leaf.shape, mesh))

    return jax.tree_util.tree_map_with_path(one, tree)


def on_host(tree):
    """The whole arrays in host memory, one after the other; all processes have to call."""

    def one(x):
        if not x.is_fully_addressable:
            x = jax.device_put(x, NamedSharding(x.sharding.mesh, PartitionSpec()))
            x = x.addressable_data(0)
        return np.asarray(x)

    return jax.tree.map(one, tree)


def of_this_process(model: nnx.Module, mesh: Mesh) -> nnx.Module:
    """A model that lies on a mesh of many processes, laid out on this process's devices alone; else as it is.

    Each process can then work by itself, as in evaluation, where nobody waits for the others' problems. `fsdp` and
    `tensor` stay what they are where the process has devices enough.
    """
    if len(mesh.local_devices) == mesh.size:
        return model
    devices, pieces = mesh.local_devices, mesh.shape["fsdp"] * mesh.shape["tensor"]
    sizes = (-1, mesh.shape["fsdp"], mesh.shape["tensor"]) if len(devices) % pieces == 0 else (-1, 1, 1)
    local = Mesh(np.array(devices).reshape(sizes), AXES, axis_types=(AxisType.Auto,) * 3)

    def one(path, x):
        return jax.device_put(on_host(x), NamedSharding(local, spec_of(path_name(path), x.shape, local)))

    graphdef, state = nnx.split(model)
    return nnx.merge(graphdef, jax.tree_util.tree_map_with_path(one, state))
