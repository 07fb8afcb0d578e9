"""Folders that are there whole or not at all."""

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path

from retune_jax.errors import UserError


@contextlib.contextmanager
def fresh(folder: Path, size: int = 0) -> Iterator[Path]:
    """A folder to write into, beside `folder`, which it becomes at the end; after any exception nothing of it is left.

    Args:
        folder: must not exist.
        size: bytes that will be written at least; refused where the disk has no room for them.

    Raises:
        UserError: the folder exists, cannot be made, or the disk is full.
    """
    if folder.exists():
        raise UserError(f"{folder} exists already")
    beside = folder.with_name(folder.name + ".new")
    nearest = next(path for path in folder.absolute().parents if path.exists())
    made = [path for path in folder.absolute().parents if not path.exists()]
    try:
        shutil.rmtree(beside, ignore_errors=True)  # left by a power cut
        beside.mkdir(parents=True)
        if size > (free := shutil.disk_usage(nearest).free):
            raise UserError(f"{folder}: takes {size / 2**30:.1f} GiB, and the disk has {free / 2**30:.1f} GiB free")
        yield beside
        beside.replace(folder)
    except OSError as error:
        raise UserError(f"{folder} cannot be written: {error.strerror or error}") from error
    finally:
        shutil.rmtree(beside, ignore_errors=True)
        if not folder.exists():
            with contextlib.suppress(OSError):  # not made, or not empty
                for path in made:
                    path.rmdir()
