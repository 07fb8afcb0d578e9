"""Packaging. The lower bounds are versions that the test suite was run with."""

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
VERSION = re.search(r'__version__ = "(.+)"', (HERE / "retune_jax" / "__init__.py").read_text())[1]
README = HERE / "README.md"

setup(
    name="retune_jax",
    version=VERSION,
    description="Re-Tuning in JAX: language models that solve problems by calling themselves",
    long_description=README.read_text() if README.exists() else "",
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    classifiers=["Operating System :: POSIX :: Linux", "Operating System :: MacOS"],
    python_requires=">=3.11",
    packages=find_packages(include=["retune_jax", "retune_jax.*"]),
    package_data={"retune_jax": ["assets/**/*", "report/page.*", "report/*.js"]},
    install_requires=[
        "absl-py>=2.5.1",
        "array-record>=0.8.6",
        "flax>=0.12.8",
        "grain>=0.2.18",
        "jax>=0.10.2",
        "matplotlib>=3.11.2",
        "ml-collections>=1.1.0",
        "numpy>=2.4.6",
        "optax>=0.2.8",
        "orbax-checkpoint>=0.12.8",
        "protobuf",
        "rich>=15.0.0",
        "sentencepiece>=0.2.2",
        "tensorboardX>=2.6.4",
        "tensorflow-datasets>=4.9.10",
        "tqdm>=4.70.1",
    ],
    extras_require={
        "test": [
            "build>=1.6.1",
            "hypothesis>=6.170.15",
            "jsonschema>=4.23",
            "kubernetes-validate>=1.37",
            "mkdocs-material>=9.8.2",
            "mkdocstrings[python]>=1.0.8",
            "mypy>=2.4.1",
            "peft>=0.21.2",
            "playwright>=1.65.2",
            "pytest>=9.2.0",
            "pytest-xdist>=3.8.0",
            "pyyaml>=6",
            "ruff>=0.17.6",
            "safetensors>=0.8.0",
            "setuptools>=70.1",
            "torch==2.13.*",  # a newer one may come as a CUDA build of several GB
            "transformers>=5.24.0",
        ],
        "docs": ["mkdocs-material>=9.8.2", "mkdocstrings[python]>=1.0.8"],
        "bench": ["peft>=0.21.2", "torch==2.13.*", "transformers>=5.24.0"],
        "wandb": ["wandb"],
    },
)
