"""Writes a report of evaluated runs, side by side: one HTML file that needs nothing else.

    python -m retune_jax.report --workdirs=runs/parity-retune-tiny
    python -m retune_jax.report --workdirs=runs/parity-retune-tiny,runs/parity-scratchpad-tiny --output=both.html

The report of one run goes into its folder; of several, report.html in the current one, unless --output says where.
"""

from pathlib import Path

from retune_jax import cli, disk, report
from retune_jax.errors import UserError


def main(arguments: list[str]):
    """The command line."""
    cli.no_arguments(arguments)
    write([disk.folder(workdir, "--workdirs") for workdir in WORKDIRS.value if workdir], OUTPUT.value)


def write(folders: list[Path], output: str | None):
    """Reads the evaluations in the folders and writes their report."""
    if not folders:
        raise UserError("--workdirs: no folder is named")
    runs = [report.read(folder) for folder in folders]
    path = disk.folder(output, "--output") if output else (folders[0] if len(folders) == 1 else Path()) / report.FILE
    try:
        report.write(runs, path)
    except OSError as error:
        raise UserError(f"--output: {path} cannot be written: {error.strerror}") from error
    print(path)


if __name__ == "__main__":
    from absl import flags

    WORKDIRS = flags.DEFINE_list("workdirs", None, "Folders of evaluated runs, separated by commas.", required=True)
    OUTPUT = flags.DEFINE_string("output", None, "The HTML file to write.")
    cli.run(main)
