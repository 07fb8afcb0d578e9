"""What lies on disk, whole or not at all: folders that a user names, files written in one go, and locks.

A file or a folder is written beside its place and renamed (`replacing`, `fresh_folder`), so that a kill, a full disk or a
mistake leaves the one before.
A lock is the operating system's (`locked`): it goes when the process that holds it does, however that ends.
"""

import contextlib
import errno
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from retune_jax import interrupts
from retune_jax.errors import UserError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None


TROUBLE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EFBIG)


class DiskError(Exception):
    """The disk is full or broken: one clear line, and nothing that the user typed."""


def trouble(error: BaseException | None) -> str | None:
    """What a full or broken disk has to do with an error, in a few words; None where nothing."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in TROUBLE:
            return f"{error.filename or 'a file'} cannot be written: {error.strerror}"
        for number in TROUBLE:  # libraries wrap it into errors of their own
            if os.strerror(number) in str(error):
                return f"a file cannot be written: {os.strerror(number)}"
        error = error.__cause__ or error.__context__
    return None


def folder(text: str | None, name: str) -> Path:
    """The local folder (or file) that a user wrote for the flag or key `name`, `~` resolved; a `UserError` where it is none."""
    if not text or not text.strip():
        raise UserError(f"{name}: it is empty; give a path")
    if scheme := re.match(r"\w+:/", text):
        raise UserError(f"{name}: {text!r} is no local path; mount {scheme[0]}… or copy it, and give the path here")
    try:
        return Path(text).expanduser()
    except RuntimeError as error:  # a user id without a home
        raise UserError(f"{name}: {text!r} needs a home folder and there is none; set HOME or give a whole path") from error


def claim(folder: Path):
    """Makes a folder, or sees that files can be made in it; a `UserError` says why not."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise UserError(f"{folder} cannot be written to: {error.strerror}") from error


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Gives a path to write to beside `path`, and moves it there at the end; an error leaves what was there before."""
    if path.is_dir():
        raise UserError(f"{path} is a folder, and a file is to be written there")
    fresh = path.with_name(path.name + ".new")
    try:
        yield fresh
        fresh.replace(path)
    finally:
        with contextlib.suppress(OSError):
            fresh.unlink(missing_ok=True)


def write(path: Path, text: str):
    """Writes a text file in one go: it is there whole, or as it was before."""
    with replacing(path) as fresh:
        fresh.write_text(text)


@contextlib.contextmanager
def fresh_folder(folder: Path, size: int = 0) -> Iterator[Path]:
    """A folder to write into, beside `folder`, which it becomes at the end.

    After an exception, Ctrl-C or SIGTERM nothing of it is left.

    Args:
        folder: must not exist.
        size: bytes that will be written at least; refused where the disk has no room for them.

    Raises:
        UserError: the folder exists, cannot be made, or the disk is full.
    """
    if folder.exists():
        raise UserError(f"{folder} exists already")
    beside = folder.with_name(folder.name + ".new")
    made = [path for path in folder.absolute().parents if not path.exists()]
    nearest = next(path for path in folder.absolute().parents if path.exists())

    def clear():
        shutil.rmtree(beside, ignore_errors=True)
        if not folder.exists():
            with contextlib.suppress(OSError):  # not made, or not empty
                for path in made:
                    path.rmdir()

    def interrupted(number: int):
        clear()
        interrupts.end(number)

    try:
        shutil.rmtree(beside, ignore_errors=True)  # left by a power cut
        beside.mkdir(parents=True)
        if size > (free := shutil.disk_usage(nearest).free):
            raise UserError(f"{folder}: takes {size / 2**30:.1f} GiB, and the disk has {free / 2**30:.1f} GiB free")
        with interrupts.handling(interrupted) if interrupts.installed() else contextlib.nullcontext():
            yield beside
        beside.replace(folder)
    except OSError as error:
        raise UserError(f"{folder} cannot be written: {error.strerror or error}") from error
    finally:
        clear()


@contextlib.contextmanager
def locked(path: Path, *, wait: bool) -> Iterator[bool]:
    """Holds the lock of the file `path`, which is there for as long; gives False where another process has it.

    Args:
        wait: until the other process lets go.
    """
    if fcntl is None:
        raise UserError("retune_jax runs on Linux and macOS (on Windows: in WSL); this system has no file locks")
    while True:
        file = path.open("a")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            file.close()
            yield False
            return
        except OSError:  # a file system without locks: nobody can be kept out
            break
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(file.fileno()), path.stat()):
                break
        file.close()  # the one that held it has removed it: begin again
    try:
        yield True
    finally:
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)
        file.close()
