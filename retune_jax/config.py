"""The recipe: every key of a run's configuration, its default for a model, and the check of a whole one.

A file in configs/ is a short function over `recipe`:

    def get_config(arguments=""):                       # "method=scratchpad,data=paper", after the file's colon
        config = recipe(arguments, task="parity")       # a complete configuration for that method and model
        config.train.steps = 400                        # what this task wants otherwise
        return config

and the command line has the last word: `--config=configs/parity.py:method=scratchpad --config.train.steps=200`.
Unknown arguments and keys are refused by name. What a run used in the end is its folder's config.json (config_file.py).
"""

import functools
import math

from ml_collections import ConfigDict, config_dict

from retune_jax import disk, tasks
from retune_jax.data.encode import LOSSES
from retune_jax.errors import UserError, close, nearest

OPTIMIZERS = ("adamw", "muon")
SCHEDULES = ("constant", "linear", "cosine")
LONGEST = 10_000  # problem to evaluate on
PRETRAINING = "base"  # stands where the task's name does


def recipe(arguments: str, *, task: str, small: float = 0.05) -> ConfigDict:
    """The complete configuration of a task for the method and the model that `arguments` name.

    Args:
        arguments: `method=…,model=…,data=…`, in any order. Left out, they are `retune` and `tiny`, and for `data` what suits
            the model: `small`, or `paper`, the training set at its full size.
        task: a name that `retune_jax.tasks.get` knows, such as `parity` or `my_module:MyTask`.
        small: size of the small training set, relative to the full one, in the same proportions.

    Raises:
        UserError: names an argument that is not known, with the nearest one that is.
    """
    given = read_arguments(arguments, {"method": "retune", "model": "tiny", "data": ""})
    tiny = given["model"].startswith("tiny")
    scales = {"small": small, "paper": 1.0, "": small if tiny else 1.0}
    if given["data"] not in scales:
        raise UserError(f"config argument data={given['data']}: it is small or paper")
    config = _small(task, given["method"], given["model"], tasks.get(task).opening(given["method"]))
    if not tiny:
        _paper(config)
    config.data.scale = scales[given["data"]]
    return config.lock()


def pretraining(arguments: str) -> ConfigDict:
    """The configuration that makes a base model: all weights, from random ones, on data/corpus.

    Args:
        arguments: `model=…`; left out, it is `tiny`.
    """
    given = read_arguments(arguments, {"model": "tiny"})
    config = _small(PRETRAINING, "corpus", given["model"], "")
    config.base = "random"
    config.lora.rank = 0
    config.data = {
        "sequence_length": 128,
        "context_length": 128,
        "examples": 20_000_000,
        "curriculum": ((0, 4),),  # (example, longest list), in order
        "repeats": 0.0,  # share of the lists in which stretches of items stand more than once
        "sums": 0.0,  # share of the examples that are sums and comparisons of lists' items
        "gaps": 0,  # positions that a context may take, with gaps (data/gaps.py); 0: one a token
        "workers": 0,  # processes that make batches; 0: a thread of this one
    }
    config.train.update({"optimizer": "muon", "learning_rate": 2e-2, "schedule": "constant", "loss": "sum"})
    return config.lock()


def _small(task: str, method: str, model: str, opening: str) -> ConfigDict:
    """The recipe of the tiny model, and the list of all keys."""
    open_size = functools.partial(config_dict.placeholder, int)  # None: evaluation/sizes.py fits it to the problems
    return ConfigDict(
        {
            "task": task,
            "method": method,
            "model": model,  # a preset of models/presets.py, or "custom": whatever shape the base has
            "base": "tiny",  # the weights to tune: "tiny" ships, a folder made by convert, or "random"
            "quantize": "none",  # the frozen base, held in 8 or 4 bits a weight: "int8" or "nf4" (models/quantize.py)
            "seed": 0,
            "lora": {
                "rank": 16,  # 0: no adapter, all weights are trained
                "alpha": 16.0,
                "dropout": 0.0,
                "targets": "q,k,v,o,gate,up,down",
            },
            "data": {
                "dir": "~/.cache/retune_jax/data",  # prepared training sets, shared by runs
                "scale": 0.05,  # of the paper's number of examples
                "per_length": 0,  # distinct problems of each trained length instead, with all contexts; 0: the paper's sampling
                "resample": True,  # the paper's drops and repeats; False: each distinct context once
                "wording": tasks.PAPER,  # how problems are asked: the name of one of the task's wordings, or "all"
                "sequence_length": 512,  # tokens of a packed row
                "context_length": 512,  # of the longest context; attention looks no farther
                "gaps": 0,  # positions that a context of the task may take, with gaps (data/gaps.py); 0: one a token
                "gaps_after": 0,  # steps (about) without them
                "replay": 0.0,  # share of the examples that are the base's own text (data/corpus), not the task's
                "replay_after": 0,  # steps (about) of the task alone, before replay begins
                "replay_items": 60,  # of the longest list in that text
                "repeats": 0.6,  # share of that text's lists in which stretches of items stand more than once
                "sums": 0.0,  # share of that text's examples that are sums and comparisons of lists' items
            },
            "train": {
                "steps": 600,
                "rows": 16,  # packed rows a step, over all devices and micro-batches
                "accumulate": 1,  # micro-batches a step
                "optimizer": "adamw",  # or "muon"
                "learning_rate": 3e-3,
                "schedule": "cosine",  # after the warm-up: to 0 at the last step, or "linear", or "constant"
                "warmup": 20,  # steps from 0 to the full rate
                "clip": 1.0,  # the gradient's largest norm
                "weight_decay": 0.01,
                "loss": "mean",  # of a segment: the "mean" over its tokens, their "sum" as in the paper, or "root" between them
                "remat": "none",  # what the backward pass recomputes: "none", "dots" or "full"
                "attention": "flash",  # how packed rows attend (models/attention.py): "flash", "xla", or on GPUs "cudnn"
                "log_every": 10,  # steps a line of metrics.jsonl
                "save_every": 100,  # steps a checkpoint
                "keep": 2,  # checkpoints, the newest
                "keep_best": 0,  # checkpoints besides, the best by the loss on the validation split, which is measured at each
            },
            "log": {"tensorboard": True, "wandb": ""},  # besides metrics.jsonl; wandb: a project's name
            "profile": {
                "start": 0,
                "steps": 0,
            },  # so many steps after step `start`, into DIR/profile
            "mesh": {"data": -1, "fsdp": 1, "tensor": 1},  # devices a mesh axis; -1: what is left
            "decode": {
                "slots": 64,  # problems at a time
                "window": open_size(),  # tokens a context
                "max_depth": open_size(),  # callers suspended at a time
                "stack_tokens": open_size(),  # tokens of all suspended contexts of a slot
                "max_tokens": open_size(),  # a problem
                "max_calls": open_size(),  # a problem
                "tokens_per_step": 16,
                "steps_per_advance": 4,
                "calls": task == PRETRAINING or tasks.calls(method),
                "carry": method != "no_carry",
                "opening": opening,
                "temperature": 0.0,  # 0: greedy
                "top_k": 0,  # draws are from so many likeliest tokens; 0: from all
                "top_p": 1.0,  # draws are from the likeliest tokens that have this probability together
                "seed": 0,
                "draft": True,
                "memo": 4096,  # solved subproblems to remember, so that none is solved twice; 0: none
                "stack": "auto",  # suspended contexts: "keep" on the device, "offload", "recompute", or "auto": what fits
                "memory_gib": 0.0,  # room for the decoder; 0: what is free
            },
            "eval": {"lengths": "1:40", "problems_per_length": 50, "wording": tasks.PAPER, "samples": 1},
        }
    )


def template(task: str, method: str, model: str) -> ConfigDict:
    """A configuration with all keys that one has, at defaults."""
    if task == PRETRAINING:
        return pretraining("").unlock()
    return _small(task, method, model, "")


def _paper(config: ConfigDict):
    """Turns the small recipe into the paper's for LLaMA 7B and 13B (Pasewark et al., 2024, and their released code)."""
    config.base = config_dict.placeholder(str)  # LLaMA's weights have to be brought
    config.lora.update({"rank": 64, "alpha": 64.0, "dropout": 0.05, "targets": "q,k,v,o"})
    config.data.update({"sequence_length": 2048, "context_length": 2048})
    config.train.update(
        {
            "steps": 3900,  # 500,000 segments, 128 a step
            "rows": 8,  # about 128 segments
            "learning_rate": 2e-4,
            "schedule": "constant",
            "warmup": 1,
            "clip": 10.0,
            "loss": "sum",
            "remat": "full",
            "attention": "xla",
            "save_every": 250,
        }
    )


def read_arguments(text: str, defaults: dict[str, str]) -> dict[str, str]:
    """Reads `key=value,key=value`; the keys and what is not given come from `defaults`."""
    values = dict(defaults)
    for part in filter(None, text.split(",")):
        key, equals, value = part.partition("=")
        if key not in defaults:
            raise UserError(f"config argument {part!r}: no argument {key!r}{nearest(key, defaults)}")
        if not equals or not value:
            raise UserError(f"config argument {part!r}: write {key}=VALUE")
        values[key] = value
    return values


def check_overrides(overridden: dict):
    """Refuses flags for keys that the config file's own arguments decide, and much else with them.

    Args:
        overridden: key to value, as the command line sets them.
    """
    for key in ("method", "model"):
        if key in overridden:
            given = f"{key}={overridden[key]}"
            raise UserError(f"--config.{given}: the recipe follows from it; write --config=FILE.py:{given}")


def validate(config: ConfigDict):
    """Checks a whole configuration; a `UserError` names the first key that is wrong, its value and what it may be."""
    from retune_jax.decoding import DecoderConfig  # here, because they bring JAX
    from retune_jax.models import attention, llama, lora, presets, quantize

    given, known = flat(config.to_dict()), flat(template(config.task, config.method, config.model).to_dict())
    for path in sorted(known.keys() ^ given.keys()):
        how = "is missing" if path in known else f"is no key of a configuration{close(path, known)}"
        raise UserError(f"config.{path}: {how}")
    for path, value in given.items():
        if isinstance(value, float) and not math.isfinite(value):
            raise UserError(f"config.{path}: {value} is not a finite number")
    _one_of(config, "model", [*presets.PRESETS, presets.CUSTOM])
    if config.base == "random" and config.model == presets.CUSTOM:
        raise UserError(f"config.base: random weights need a shape; model={presets.CUSTOM} has none")
    if config.task != PRETRAINING:
        tasks.get(config.task)
    _one_of(config, "method", ["corpus"] if config.task == PRETRAINING else [*tasks.METHODS, *tasks.ABLATIONS])
    _one_of(config, "train.optimizer", OPTIMIZERS)
    _one_of(config, "train.schedule", SCHEDULES)
    _one_of(config, "train.loss", LOSSES)
    _one_of(config, "train.remat", llama.REMAT_POLICIES)
    _one_of(config, "train.attention", attention.KINDS)
    _one_of(config, "quantize", quantize.KINDS)
    quantize.check(config.quantize, config.lora.rank)
    attention.check(config.train.attention)
    for target in config.lora.targets.split(","):
        if target not in lora.PROJECTIONS:
            raise UserError(f"config.lora.targets: {target!r} is not one of {', '.join(lora.PROJECTIONS)}")
    for path in ("train.steps", "train.rows", "train.accumulate", "train.log_every", "train.save_every", "train.keep"):
        _at_least(config, path, 1)
    if not 1 <= config.data.context_length <= config.data.sequence_length:
        raise UserError(
            f"config.data.context_length: {config.data.context_length} is not in 1..{config.data.sequence_length}, "
            "the sequence_length"
        )
    for path in ("data.sequence_length", "eval.problems_per_length", "eval.samples"):
        _at_least(config, path, 1)
    for path in ("lora.rank", "train.keep_best", "profile.start", "profile.steps", "train.warmup", "train.weight_decay"):
        _at_least(config, path, 0)
    for path in ("train.learning_rate", "train.clip", *(["lora.alpha"] if config.lora.rank else [])):
        _above(config, path, 0)
    if not 0 <= config.lora.dropout < 1:
        raise UserError(f"config.lora.dropout: {config.lora.dropout} is not in [0, 1)")
    if config.train.rows % config.train.accumulate:
        raise UserError(f"config.train.rows: {config.train.rows} rows do not divide by {config.train.accumulate}")
    for path in ("seed", "decode.seed"):
        if not 0 <= _value(config, path) < 2**63:
            raise UserError(f"config.{path}: {_value(config, path)} is not in 0..2^63-1")
    if config.eval.samples > 1 and not config.decode.temperature:
        raise UserError(f"config.eval.samples: {config.eval.samples} greedy samples are all the same; set decode.temperature")
    sizes = config.decode.to_dict()
    DecoderConfig(**{key: sizes["tokens_per_step"] if value is None else value for key, value in sizes.items()})
    _at_least(config, "data.gaps", 0)
    if config.task == PRETRAINING:
        _at_least(config, "data.workers", 0)
        if config.train.keep_best:
            raise UserError("config.train.keep_best: the corpus has no validation split to choose by")
        return
    disk.folder(config.data.dir, "config.data.dir")
    derived = {"calls": tasks.calls(config.method), "carry": config.method != "no_carry"}
    derived["opening"] = tasks.get(config.task).opening(config.method)
    for name, right in derived.items():
        if config.decode[name] != right:
            raise UserError(
                f"config.decode.{name}: {config.decode[name]!r} does not go with method {config.method}, which is to be set as "
                f"the file's argument: --config=FILE.py:method={config.method}"
            )
    wordings = tasks.wording_names(tasks.get(config.task))
    _one_of(config, "data.wording", [*wordings, tasks.ALL])
    _one_of(config, "eval.wording", wordings)
    _above(config, "data.scale", 0)
    _at_least(config, "data.per_length", 0)
    if not 0 <= config.data.replay < 1:
        raise UserError(f"config.data.replay: {config.data.replay} is not in [0, 1)")
    _at_least(config, "data.gaps_after", 0)
    _at_least(config, "data.replay_items", 1)
    _at_least(config, "data.replay_after", 0)
    for name in ("repeats", "sums"):
        if not 0 <= config.data[name] <= 1:
            raise UserError(f"config.data.{name}: {config.data[name]} is not in [0, 1]")
    if config.data.scale > 1:
        raise UserError(f"config.data.scale: {config.data.scale} is more than 1, the paper's size")
    if config.base is None:
        raise UserError(f"config.base: {config.model} ships without weights; give --config.base=DIR")
    read_lengths(config.eval.lengths)


def check_rows(config: ConfigDict, devices: int):
    """Refuses a number of rows that the devices which split the batch cannot share evenly."""
    rows, micro = config.train.rows, config.train.rows // config.train.accumulate
    if micro % devices:
        shown = f"{rows} rows in {config.train.accumulate} micro-batches"
        raise UserError(f"config.train.rows: {shown} do not divide over {devices} devices")


def read_lengths(text: str) -> list[int]:
    """Problem lengths out of `1:40` (both ends included), `4,8,16`, or a mixture."""
    lengths: list[int] = []
    for part in text.split(","):
        low, colon, high = part.partition(":")
        try:
            chosen = range(int(low), int(high if colon else low) + 1)
        except ValueError:
            chosen = range(0)
        if not chosen or chosen[0] < 1:
            raise UserError(f"lengths {text!r}: {part!r} is not a length such as 12 or a range such as 1:40")
        if chosen[-1] > LONGEST:
            raise UserError(f"lengths {text!r}: {chosen[-1]} is more than {LONGEST}, the longest")
        lengths += chosen
    return sorted(set(lengths))


def as_flags(config: ConfigDict) -> list[str]:
    """Every key as the flag that sets it to the value it has; keys that are worked out later stand as they are: None."""
    return [f"--config.{key}={value}".replace("\n", "\\n") for key, value in flat(config.to_dict()).items()]


def flat(tree: dict, prefix: str = "") -> dict[str, object]:
    """Every key with its whole path, `train.steps`, and its value."""
    found = {}
    for key, value in tree.items():
        found |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return found


def _value(config: ConfigDict, path: str):
    for key in path.split("."):
        config = config[key]
    return config


def _one_of(config: ConfigDict, path: str, names):
    value = _value(config, path)
    if value not in names:
        raise UserError(f"config.{path}: {value!r} is not one of {', '.join(names)}{close(str(value), names)}")


def _at_least(config: ConfigDict, path: str, low: float):
    if not _value(config, path) >= low:  # so written, NaN fails too
        raise UserError(f"config.{path}: {_value(config, path)} is less than {low}")


def _above(config: ConfigDict, path: str, low: float):
    if not _value(config, path) > low:
        raise UserError(f"config.{path}: {_value(config, path)} is not greater than {low}")
