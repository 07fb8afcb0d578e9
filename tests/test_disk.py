"""What lies on disk is whole or not there, folders are local ones, and one process at a time holds a lock."""

import contextlib
import errno
import tempfile
from pathlib import Path

import pytest
from commands import python

from retune_jax import disk, tokenizer
from retune_jax.data import builder
from retune_jax.errors import UserError


@pytest.mark.parametrize("place", ["gs://bucket/a", "s3://bucket/a", "hdfs:/a", "", " ", None])
def test_only_local_folders_are_taken_for_such(place, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="--workdir"):
        disk.folder(place, "--workdir")
    with pytest.raises(UserError, match=r"config\.data\.dir"):
        builder.prepare("parity", "retune", scale=0.001, seed=0, data_dir=place, progress=False)
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_written_to_is_named_with_the_reason(tmp_path, monkeypatch):
    def read_only(dir):
        raise OSError(errno.EROFS, "Read-only file system")

    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="file/run cannot be written to: Not a directory"):
        disk.claim(tmp_path / "file" / "run")
    monkeypatch.setattr(tempfile, "TemporaryFile", read_only)
    with pytest.raises(UserError, match="cannot be written to: Read-only file system"):
        disk.claim(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_user_without_a_home_is_told_so(monkeypatch):
    def homeless(self):
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "expanduser", homeless)
    with pytest.raises(UserError, match=r"config\.data\.dir: '~/data' needs a home folder"):
        disk.folder("~/data", "config.data.dir")


def test_a_write_that_fails_leaves_the_file_before(tmp_path):
    file = tmp_path / "tokenizer.model"
    file.write_text("before")
    with pytest.raises(RuntimeError):
        tokenizer.train(["too little text"], file, 512)
    with pytest.raises(OSError), disk.replacing(file) as fresh:
        fresh.write_text("half")
        raise OSError(errno.ENOSPC, "no space")
    assert file.read_text() == "before" and [path.name for path in tmp_path.iterdir()] == ["tokenizer.model"]


def test_a_system_without_file_locks_is_told_which_have_them(monkeypatch, tmp_path):
    monkeypatch.setattr(disk, "fcntl", None)
    with pytest.raises(UserError, match="runs on Linux and macOS"), disk.locked(tmp_path / "lock", wait=True):
        pass


def test_many_processes_take_turns_at_a_lock(tmp_path):
    """Each removes the lock's file as it lets go, while others wait for it or come anew."""
    code = "import sys; from pathlib import Path; from retune_jax import disk\n"
    code += "folder = Path(sys.argv[1]); total = folder / 'total'\n"
    code += "for _ in range(200):\n    with disk.locked(folder / '.lock', wait=True):\n"
    code += "        total.write_text(str(int(total.read_text()) + 1))"
    (tmp_path / "total").write_text("0")
    with contextlib.ExitStack() as running:
        processes = [running.enter_context(python(code, tmp_path)) for _ in range(6)]
        assert [process.wait() for process in processes] == [0] * 6
    assert (tmp_path / "total").read_text() == "1200"
