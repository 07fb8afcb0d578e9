"""The progress bar of long work: a bar on a terminal, a line now and then elsewhere."""

import sys

from tqdm import tqdm


def bar(iterable=None, **options) -> tqdm:
    """A `tqdm` with these options that fills no log file."""
    return tqdm(iterable, mininterval=0.1 if sys.stderr.isatty() else 15, **options)
