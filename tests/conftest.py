"""All tests run on four fake CPU devices, so that sharding is exercised on any machine.

What is compiled is kept for the session: many tests run the same small program. RETUNE_JAX_TEST_CACHE names a folder
that keeps it from one session to the next.
"""

import os
import shutil
import signal
import tempfile

KEPT = os.environ.get("RETUNE_JAX_TEST_CACHE")
CACHE = KEPT or tempfile.mkdtemp(prefix="retune_jax-compiled-")

os.environ["JAX_PLATFORMS"] = "cpu"
# Level 0: the tests compile much and compute little.
FLAGS = "--xla_force_host_platform_device_count=4 --xla_backend_optimization_level=0"
os.environ["XLA_FLAGS"] = f"{FLAGS} {os.environ.get('XLA_FLAGS', '')}".strip()
os.environ["JAX_COMPILATION_CACHE_DIR"] = CACHE
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.2"
os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"

# A shell that starts the tests in the background has them ignore Ctrl-C, and what they start inherits that.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_unconfigure():
    if not KEPT:
        shutil.rmtree(CACHE, ignore_errors=True)
