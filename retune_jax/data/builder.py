"""The data sets of the tasks: written once with TensorFlow Datasets, as array_record files, and read in any order.

    data = prepare("parity", "retune", scale=0.01, seed=0, data_dir="data", progress=True)
    data.path           data/retune/parity-retune-0.01-seed0/1.0.0
    data.source("train")[7]

        {"inputs": [" What is the parity of [1, 0]?\nSolution:", "Return: 0\nAnswer:"],
         "outputs": [" Call: What is the parity of [0]?\n", " 1"],
         "length": 2}

An example is a context: `inputs[i]` is the text before the generated `outputs[i]`. `length` is that of the problem it
belongs to. The split `train` is the task's training set, repeats included, so that one epoch is the paper's mixture;
`validation` and `test` are the contexts of true solutions to fresh problems, equally many of each trained length.
(The few short problems that exist are in all splits; long ones practically never.)

The folder's name says what is in it, so another seed or scale is another data set beside it. TensorFlow is not needed.
"""

import contextlib
import dataclasses
import io
import itertools
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import tensorflow_datasets as tfds
from absl import logging
from etils import epath
from tensorflow_datasets.proto import tf_example_pb2

from retune_jax import disk, tasks
from retune_jax.errors import UserError
from retune_jax.progress import bar

# Fresh problems of each trained length.
HELD_OUT = {"validation": 5, "test": 10}


@dataclasses.dataclass(eq=False, kw_only=True)
class Config(tfds.core.BuilderConfig):
    """Which data set: a task, a method, the size relative to the paper's, a seed, and how the training set is made."""

    task: str
    method: str
    scale: float
    seed: int
    per_length: int
    resample: bool
    wording: str


class Retune(tfds.core.GeneratorBasedBuilder):
    """Contexts of one task, written down by one method."""

    # A change to the texts or the sampling of any task is a new version, so that no run reads stale data.
    VERSION = tfds.core.Version("1.0.0")
    # Said here, because tfds 4.9.10 would work it out with a package that it does not require (importlib_resources).
    code_path = epath.Path(__file__)

    def __init__(self, config: Config, data_dir: Path):
        super().__init__(config=config, data_dir=data_dir, file_format="array_record")
        self.progress = False

    def _info(self) -> tfds.core.DatasetInfo:
        texts = tfds.features.Tensor(shape=(None,), dtype=np.str_)  # writes twice as fast as a Sequence of Text
        config = self.builder_config
        return tfds.core.DatasetInfo(
            builder=self,
            description=f"Contexts of the task {config.task}, written down the way of {config.method}.",
            features=tfds.features.FeaturesDict({"inputs": texts, "outputs": texts, "length": np.int32}),
            metadata=tfds.core.MetadataDict(task=config.task, method=config.method, scale=config.scale, seed=config.seed),
            disable_shuffling=True,  # the pipeline shuffles
        )

    def _split_generators(self, dl_manager) -> dict[str, Iterator]:
        return {split: self._generate_examples(split) for split in ("train", *HELD_OUT)}

    def _generate_examples(self, split: str) -> Iterator[tuple[int, dict]]:
        examples = generate(self.builder_config, split)
        title = f"{self.builder_config.name} {split}"
        examples = iter(examples)
        first = next(examples, None)
        if first is None:
            raise UserError(f"config.data.scale: {self.builder_config.scale} is so small that no example is left")
        examples = itertools.chain([first], examples)
        yield from enumerate(bar(examples, desc=title, unit=" contexts", disable=not self.progress, leave=False))


def generate(config: Config, split: str) -> Iterator[dict]:
    """Yields the examples of a split; a pure function of its arguments."""
    plain = tasks.with_training_set(tasks.get(config.task), per_length=config.per_length, resample=config.resample)
    wordings = tasks.wording_names(plain) if config.wording == tasks.ALL else [config.wording]
    variants = [tasks.reworded(plain, name) for name in wordings]
    suffix = plain.opening(config.method)

    def example(context, length):
        return {"inputs": context.inputs(suffix), "outputs": context.outputs(), "length": length}

    # One stream of random numbers a split: no held-out problem is drawn with a number that training uses.
    number = ("train", *HELD_OUT).index(split)
    rng, chooser = np.random.default_rng([config.seed, number]), np.random.default_rng([config.seed, number, len(variants)])
    if split == "train":
        # The same draws in every wording, so the same contexts; each copy of one is in any of them.
        sets = [
            task.training_set(config.method, np.random.default_rng([config.seed, number]), config.scale) for task in variants
        ]
        for found in zip(*sets, strict=True):
            owner, problem = variants[0].reading(found[0][0].prompt)
            written = [example(context, owner.length(problem)) for context, _ in found]
            for _ in range(found[0][1]):
                yield written[chooser.integers(len(written)) if len(written) > 1 else 0]
        return
    shortest, longest = plain.trained_lengths
    for length in range(shortest, longest + 1):
        for _ in range(HELD_OUT[split]):
            task = variants[chooser.integers(len(variants)) if len(variants) > 1 else 0]
            for context in task.written(task.sample(rng, length), config.method).walk():
                yield example(context, length)


class Contexts:
    """A split on disk: random access to examples. A `UserError` names a file that is damaged."""

    def __init__(self, folder: Path, records):
        self._folder, self._records = folder, records
        with _readable(folder):
            self._length = len(records)

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> dict:
        with _readable(self._folder):
            # The features are plain lists: reading the message directly is three times as fast as tfds's decoding.
            feature = tf_example_pb2.Example.FromString(self._records[index]).features.feature
        return {
            "inputs": [text.decode() for text in feature["inputs"].bytes_list.value],
            "outputs": [text.decode() for text in feature["outputs"].bytes_list.value],
            "length": feature["length"].int64_list.value[0],
        }


class Prepared:
    """A data set that lies on disk in full.

    Attributes:
        path: its folder.
        sizes: {split: number of examples}.
    """

    def __init__(self, builder: Retune):
        self._builder = builder
        self.path = Path(builder.data_dir)
        self.sizes = {name: split.num_examples for name, split in builder.info.splits.items()}

    def source(self, split: str) -> Contexts:
        """Random access to "train", "validation" or "test"."""
        if split not in self.sizes:
            raise UserError(f"{self.path} has no split {split!r}; it has {', '.join(self.sizes)}")
        raw = tfds.decode.DeserializeMethod.RAW_BYTES
        with _readable(self.path):
            return Contexts(self.path, self._builder.as_data_source(split, deserialize_method=raw))


def prepare(
    task: str,
    method: str,
    *,
    scale: float,
    seed: int,
    data_dir,
    progress: bool,
    per_length: int = 0,
    resample: bool = True,
    wording: str = tasks.PAPER,
) -> Prepared:
    """Opens a data set, writing it first where it does not exist.

    It is written beside its place and moved there once whole. Processes of one machine that ask for the same data set
    at the same time wait for the one that writes it; what an interrupted one left behind is removed.

    Args:
        task: a name that `retune_jax.tasks.get` knows.
        method: how the task is written down: "retune", "scratchpad", "baseline".
        scale: size of the training split relative to the paper's, above 0 and at most 1.
        seed: of all that is drawn.
        data_dir: folder of all data sets; `~` is the home folder.
        progress: draw a progress bar.
        per_length, resample: another training set than the task's own, as in `tasks.with_training_set`.
        wording: the name of one of the task's wordings, or `tasks.ALL`: each example in one of them all.

    Raises:
        UserError: an unknown task, method or split, or a folder that cannot be written.
    """
    tasks.get(task).opening(method)  # refuses unknown names before anything is written
    root = disk.folder(None if data_dir is None else str(data_dir), "config.data.dir")
    size = f"{per_length}problems" if per_length else f"{float(scale)}" if resample else f"{float(scale)}-once"
    name = f"{tasks.identity(task)}-{method}-{size}{'' if wording == tasks.PAPER else f'-{wording}'}-seed{seed}"
    config = Config(
        name=name,
        task=task,
        method=method,
        scale=float(scale),
        seed=seed,
        per_length=per_length,
        resample=resample,
        wording=wording,
    )
    folder = root / Retune.name / name / str(Retune.VERSION)
    try:
        with _quiet(), _readable(folder):
            builder = Retune(config, root)
            if not folder.exists():
                _write(builder, progress)
                builder = Retune(config, root)
            prepared = Prepared(builder)
            if missing := [split for split in ("train", *HELD_OUT) if not prepared.sizes.get(split)]:
                raise ValueError(f"it has no split {missing[0]}")
            return prepared
    except OSError as error:
        raise UserError(f"data set {name} in {root}: {error.strerror or error}") from error


def _write(builder: Retune, progress: bool):
    """Writes a data set, unless another process has done so by the time it is our turn."""
    folder = Path(builder.data_dir)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with disk.locked(folder.parent / ".lock", wait=True):
        if folder.exists():
            return
        for abandoned in folder.parent.glob("incomplete.*"):
            shutil.rmtree(abandoned)
        builder.progress = progress
        with tempfile.TemporaryDirectory() as nothing:  # tfds wants a folder for downloads
            builder.download_and_prepare(download_dir=nothing)


@contextlib.contextmanager
def _readable(folder: Path):
    """Turns what the libraries below raise at a file that is damaged, cut short or gone into a `UserError`."""
    try:
        yield
    except (UserError, OSError, KeyboardInterrupt):
        raise
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"data set {folder} is damaged ({reason}): delete this folder, and it is written anew") from error


@contextlib.contextmanager
def _quiet():
    """Keeps tfds from logging, printing and drawing what our one progress bar says better."""
    verbosity = logging.get_verbosity()
    logging.set_verbosity(logging.ERROR)
    tfds.display_progress_bar(False)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        tfds.display_progress_bar(True)
        logging.set_verbosity(verbosity)
