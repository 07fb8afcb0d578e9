"""What XLA compiles is kept on disk, so that the second start of a command need not wait for it.

All command lines share one folder, `~/.cache/retune_jax/compiled`. JAX looks programs up by what they are, so nothing in it
can be out of date, and it may be deleted at any time. JAX's own variables have the last word: `JAX_COMPILATION_CACHE_DIR`
puts it elsewhere, `JAX_ENABLE_COMPILATION_CACHE=0` switches it off.
"""

import os
import warnings
from pathlib import Path

FOLDER = Path("~/.cache/retune_jax/compiled")


def keep():
    """Has JAX keep what it compiles. To be called before JAX is imported; does nothing where there is no home folder."""
    try:
        folder = FOLDER.expanduser()
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, RuntimeError):  # a read-only home; a user without one
        return
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(folder))
    # JAX keeps only what took a second. A start consists of many small programs.
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")
    # An entry that a kill cut short, or that a full disk has no room for, is compiled anew.
    warnings.filterwarnings("ignore", message="Error (reading|writing) persistent compilation cache")
