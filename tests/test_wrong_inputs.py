"""Wrong inputs of every command: one line on stderr that names what is wrong, exit code 2, and nothing written."""

import json
import shutil

import pytest
import small_run
from commands import ROOT, Commands

from retune_jax import config as recipes
from retune_jax import config_file

TRAIN = ("retune_jax.train", "--config=configs/parity.py")
EVALUATE = ("retune_jax.evaluate", "--workdir=run")
SOLVE = ("retune_jax.solve", "--workdir=run")
STUDY = ("retune_jax.study", "resampling", "--recipe=configs/parity.py", "--workdir=studies")
SWEEP = ("retune_jax.sweep", "--recipe=configs/parity.py", "--workdir=sweeps")
TASKS = ("retune_jax.tasks", "--task=parity", "--method=retune")
CONVERT = ("retune_jax.convert", "--output=bases/new")
FIGURE = ("retune_jax.evaluation.figure", "--output=picture.png")
TOKENIZER = ("retune_jax.tokenizer", "--output=nowhere/tokenizer.model")

# A command, what is wrong about it, and what its line says.
ROWS = [
    # The command line itself
    (("retune_jax.train",), [], ["--config"]),
    (TRAIN, ["--wrkdir=x"], ["wrkdir", "workdir"]),
    (TRAIN, ["extra"], ["unexpected argument 'extra'"]),
    (TRAIN, ["--workdir="], ["--workdir", "empty"]),
    (TRAIN, ["--workdir=gs://bucket/run"], ["--workdir", "gs://bucket/run", "no local path"]),
    (TRAIN, ["--workdir=a-file"], ["a-file", "is a file"]),
    (TRAIN, ["--workdir=a-file/below"], ["a-file", "is a file"]),
    (("retune_jax.evaluate",), [], ["workdir"]),
    (EVALUATE, ["extra"], ["unexpected argument 'extra'"]),
    (EVALUATE, ["--problems_per_length=many"], ["problems_per_length", "many"]),
    (("retune_jax.solve",), [], ["workdir"]),
    (("retune_jax.study",), [], ["workdir"]),
    (("retune_jax.tokenizer",), [], ["output"]),
    (("retune_jax.evaluation.figure",), [], ["output"]),
    # Config files
    (("retune_jax.train", "--config=configs/absent.py"), [], ["configs/absent.py", "No such file"]),
    (("retune_jax.train", "--config="), [], ["--config", "empty"]),
    (("retune_jax.train", "--config=configs"), [], ["configs", "directory"]),
    (("retune_jax.train", "--config=plain.py"), [], ["plain.py", "get_config"]),
    (("retune_jax.train", "--config=number.py"), [], ["number.py", "task"]),
    (("retune_jax.train", "--config=broken.py"), [], ["broken.py", "line 2", "NameError", "nope"]),
    (("retune_jax.train", "--config=syntax.py"), [], ["syntax.py", "line 1", "never closed"]),
    (("retune_jax.train", "--config=a:b/parity.py"), [], ["a:b/parity.py", "colon"]),
    (("retune_jax.train", "--config=configs/parity.py:methd=retune"), [], ["methd", "did you mean 'method'?"]),
    (("retune_jax.train", "--config=configs/parity.py:method"), [], ["method=VALUE"]),
    (("retune_jax.train", "--config=configs/parity.py:method=guess"), [], ["guess", "retune"]),
    (("retune_jax.train", "--config=configs/parity.py:data=large"), [], ["data=large", "small or paper"]),
    (("retune_jax.train", "--config=configs/parity.py:model=llama_8b"), [], ["llama_8b", "did you mean 'llama_7b'?"]),
    (("retune_jax.train", "--config=configs/base.py:stage=77"), [], ["stage=77", "77"]),
    (("retune_jax.train", "--config=configs/parity.py:model=llama_7b"), [], ["config.base", "--config.base=DIR"]),
    # Keys and values of the configuration
    (TRAIN, ["--config.traim.steps=3"], ["--config.traim.steps", "did you mean 'train'?"]),
    (TRAIN, ["--config.zzz=3"], ["--config.zzz"]),
    (TRAIN, ["--config.train.steps.x=3"], ["--config.train.steps.x"]),
    (TRAIN, ["--config.train.steps=many"], ["--config.train.steps=many"]),
    (TRAIN, ["--config.decode.window=4.5"], ["--config.decode.window=4.5"]),
    (TRAIN, ["--config.data={}"], ["config.data.", "missing"]),
    (TRAIN, ["--config.data=3"], ["--config.data=3"]),
    (TRAIN, ["--config.train=None"], ["--config.train=None"]),
    (TRAIN, ["--config.method=scratchpad"], ["--config.method=scratchpad", "FILE.py:method=scratchpad"]),
    (
        ("retune_jax.train", "--config=configs/parity.py:method=scratchpad"),
        ["--config.method=retune"],
        ["--config.method=retune", "FILE.py:method=retune"],
    ),
    (TRAIN, ["--config.model=llama_7b"], ["--config.model=llama_7b", "FILE.py:model=llama_7b"]),
    (TRAIN, ["--config.decode.calls=False"], ["config.decode.calls", "method retune"]),
    (TRAIN, ["--config.decode.opening=x"], ["config.decode.opening", "'x'"]),
    (TRAIN, ["--config.task=parrity"], ["parrity", "did you mean 'parity'?"]),
    (TRAIN, ["--config.task=absent_module:Task"], ["absent_module"]),
    (TRAIN, ["--config.train.steps=0"], ["config.train.steps", "0 is less than 1"]),
    (TRAIN, ["--config.train.rows=6", "--config.train.accumulate=4"], ["config.train.rows", "do not divide by 4"]),
    (TRAIN, ["--config.train.learning_rate=nan"], ["config.train.learning_rate", "nan"]),
    (TRAIN, ["--config.train.clip=inf"], ["config.train.clip", "inf"]),
    (TRAIN, ["--config.train.schedule=cosin"], ["config.train.schedule", "did you mean 'cosine'?"]),
    (TRAIN, ["--config.train.optimizer=adam"], ["config.train.optimizer", "adamw"]),
    (TRAIN, ["--config.lora.alpha=0"], ["config.lora.alpha", "not greater than 0"]),
    (TRAIN, ["--config.lora.alpha=nan"], ["config.lora.alpha", "nan"]),
    (TRAIN, ["--config.lora.targets=q,x"], ["config.lora.targets", "'x'"]),
    (TRAIN, ["--config.lora.dropout=1"], ["config.lora.dropout", "1"]),
    (TRAIN, ["--config.seed=-1"], ["config.seed", "-1"]),
    (TRAIN, [f"--config.seed={2**64}"], ["config.seed", str(2**64)]),
    (TRAIN, ["--config.data.wording=polite"], ["config.data.wording", "polite", "paper"]),
    (TRAIN, ["--config.eval.wording=all"], ["config.eval.wording", "all"]),
    (STUDY, ["--config.train.stepz=3"], ["stepz", "did you mean 'steps'"]),
    (("retune_jax.study", "errors", "--runs=nowhere", "--workdir=studies"), [], ["nowhere", "eval.json"]),
    (("retune_jax.study", "errors", "--workdir=studies"), [], ["--runs"]),
    (("retune_jax.tasks", "--task=satisfiability", "--method=retune"), ["--problem=[1] or [2]"], ["row of clauses"]),
    (("retune_jax.tasks", "--task=multiplication", "--method=no_carry"), ["--problem=1 + 2"], ["no times sign"]),
    (TRAIN, ["--config.data.scale=0"], ["config.data.scale", "0"]),
    (TRAIN, ["--config.data.scale=2"], ["config.data.scale", "2"]),
    (TRAIN, ["--config.data.dir="], ["config.data.dir", "empty"]),
    (TRAIN, ["--config.data.dir=gs://bucket/data"], ["config.data.dir", "gs://bucket/data"]),
    (TRAIN, ["--config.data.context_length=600"], ["config.data.context_length", "600"]),
    (TRAIN, ["--config.data.replay=1"], ["config.data.replay", "1"]),
    (TRAIN, ["--config.data.sums=1.5"], ["config.data.sums", "1.5", "[0, 1]"]),
    (TRAIN, ["--config.decode.max_depth=-1"], ["decode.max_depth", "-1"]),
    (TRAIN, ["--config.decode.stack_tokens=-1"], ["decode.stack_tokens", "-1"]),
    (TRAIN, ["--config.decode.max_calls=-1"], ["decode.max_calls", "-1"]),
    (TRAIN, ["--config.decode.slots=0"], ["decode.slots", "0"]),
    (TRAIN, ["--config.decode.window=8"], ["decode.tokens_per_step", "more than the window of 8"]),
    (TRAIN, ["--config.decode.window=100"], ["config.decode.window", "100 tokens", "length 40"]),
    (TRAIN, ["--config.decode.temperature=-0.5"], ["decode.temperature", "-0.5"]),
    (TRAIN, ["--config.eval.lengths=5:2"], ["5:2"]),
    (TRAIN, ["--config.eval.lengths=0:3"], ["0:3"]),
    (TRAIN, ["--config.mesh.tensor=3"], ["tensor=3", "does not fit"]),
    (TRAIN, ["--config.base=nowhere"], ["config.base", "nowhere"]),
    (TRAIN, ["--config.base=base"], ["config.base", "no tiny", "model=custom"]),
    # Folders of runs
    (TRAIN, ["--workdir=run"], ["run holds a run with base=", "not tiny"]),
    (("retune_jax.evaluate", "--workdir=nowhere"), [], ["nowhere is not the folder of a run"]),
    (("retune_jax.evaluate", "--workdir=empty"), [], ["empty is not the folder of a run"]),
    (("retune_jax.evaluate", "--workdir=other"), [], ["other/config.json", "another program"]),
    (("retune_jax.evaluate", "--workdir=torn"), [], ["torn/config.json"]),
    (("retune_jax.evaluate", "--workdir=newer"), [], ["newer/config.json", "'train.stepz'", "did you mean 'train.steps'?"]),
    (("retune_jax.evaluate", "--workdir=odd"), [], ["odd/config.json", "many"]),
    (("retune_jax.evaluate", "--workdir=untrained"), [], ["untrained has no checkpoint yet"]),
    (("retune_jax.evaluate", "--workdir=pretraining"), [], ["pretraining", "no problems"]),
    (("retune_jax.evaluate", "--workdir=swapped"), [], ["swapped was trained from other base weights"]),
    (EVALUATE, ["--lengths=0:3"], ["'0:3'"]),
    (EVALUATE, ["--lengths="], ["lengths ''"]),
    (EVALUATE, ["--problems_per_length=0"], ["problems_per_length", "0"]),
    (EVALUATE, ["--lengths=90"], ["config.decode.window", "128 tokens", "length 90"]),
    (EVALUATE, ["--output=a-file"], ["a-file"]),
    (EVALUATE, ["--output=swapped"], ["--output: swapped is the folder of another run"]),
    (EVALUATE, ["--lengths=1:99999999999"], ["99999999999 is more than 10000"]),
    (TRAIN, ["--workdir=other"], ["other/config.json", "another program"]),
    (("retune_jax.evaluation.figure", "--output=.", "--workdirs=evaluated"), [], [". is a folder"]),
    (("retune_jax.report", "--output=configs", "--workdirs=evaluated"), [], ["configs is a folder"]),
    (("retune_jax.tokenizer", "--output=."), [], [". is a folder"]),
    (EVALUATE, ["--output=s3://x/y"], ["--output", "s3://x/y"]),
    (EVALUATE, ["--config.decode.slotz=3"], ["--config.decode.slotz", "did you mean 'slots'?"]),
    (EVALUATE, ["--config.decode.slots=x"], ["--config.decode.slots=x"]),
    (EVALUATE, ["--config.decode.slots", "3"], ["write --config.decode.slots=VALUE"]),
    (EVALUATE, ["--config.train.steps=9"], ["--config.train.steps=9", "--config.decode.KEY"]),
    (EVALUATE, ["--config.decode.tokens_per_step=200"], ["decode.tokens_per_step", "200"]),
    (EVALUATE, ["--config.decode.calls=False"], ["config.decode.calls"]),
    (EVALUATE, ["--config.base=nowhere"], ["config.base", "nowhere"]),
    (SOLVE, [], ["give problems"]),
    (("retune_jax.solve", "--workdir=nowhere"), ["[1, 0]"], ["nowhere is not the folder of a run"]),
    (SOLVE, ["--file=nowhere.txt"], ["nowhere.txt"]),
    (SOLVE, ["--file=a-file"], ["a-file", "no problems"]),
    (SOLVE, ["--interactive", "--json"], ["--json"]),
    # Tasks, studies, weights
    (TASKS, [], ["--problem"]),
    (TASKS, ["--problem=[0, 1"], ["'[0, 1' is not a list"]),
    (TASKS, ["--problem="], ["empty"]),
    (("retune_jax.tasks", "--task=parrity", "--method=retune"), ["--problem=[1]"], ["parrity", "did you mean 'parity'?"]),
    (("retune_jax.tasks", "--task=parity", "--method=guess"), ["--problem=[1]"], ["guess", "retune"]),
    (("retune_jax.tasks", "--task=endless:Circle", "--method=retune"), ["--problem=[1]"], ["circle", "Again [1]"]),
    (("retune_jax.tasks", "--task=endless:Growing", "--method=retune"), ["--problem=[1]"], ["without end", "Again ["]),
    (("retune_jax.tasks", "--check=absent_module:Task"), [], ["absent_module"]),
    (("retune_jax.study", "--recipe=configs/parity.py", "--workdir=studies"), [], ["which study?", "resampling"]),
    (("retune_jax.study", "resampilng", "--recipe=configs/parity.py", "--workdir=studies"), [], ["resampilng", "resampling"]),
    (STUDY, ["more"], ["'more'"]),
    (STUDY, ["--workdir=gs://x/y"], ["--workdir", "gs://x/y"]),
    (("retune_jax.study", "resampling", "--recipe=absent.py", "--workdir=studies"), [], ["absent.py", "No such file"]),
    (("retune_jax.study", "resampling", "--recipe=configs/parity.py:data=big", "--workdir=studies"), [], ["data=big"]),
    (CONVERT, [], ["--input"]),
    (CONVERT, ["--input=nowhere"], ["nowhere"]),
    (CONVERT, ["--input=empty"], ["empty"]),
    (("retune_jax.convert", "--input=other", "--output=bases/new"), [], ["other"]),
    (CONVERT, [], ["--input", "--workdir"]),
    (CONVERT, ["--input=base", "--workdir=run"], ["--input", "--workdir"]),
    (("retune_jax.convert", "--input=base"), [], ["--output"]),
    (CONVERT, ["--input=base"], ["base", "already", "--config.base=base"]),
    (CONVERT, ["--input=base", "--dtype=int8"], ["dtype", "bfloat16"]),
    (CONVERT, ["--input=base", "--format=hf"], ["--format", "--input"]),
    (CONVERT, ["--input=base", "--config.seed=3"], ["--config.seed=3"]),
    (CONVERT, ["--workdir=run"], ["--format=peft", "--format=hf"]),
    (CONVERT, ["--workdir=run", "--format=gguf"], ["gguf"]),
    (CONVERT, ["--workdir=run", "--format=hf", "--dtype=float32"], ["--dtype", "--workdir"]),
    (CONVERT, ["--workdir=nowhere", "--format=hf"], ["nowhere is not the folder of a run"]),
    (FIGURE, ["--workdirs=nowhere"], ["nowhere/eval.json"]),
    (FIGURE, ["--workdirs=torn"], ["torn/eval.json"]),
    (("retune_jax.evaluation.figure", "--output=nowhere/picture.png", "--workdirs=evaluated"), [], ["nowhere/picture.png"]),
    (("retune_jax.evaluation.skills", "--base=nowhere"), [], ["nowhere"]),
    (("retune_jax.evaluation.skills", "--workdir=empty"), [], ["empty is not the folder of a run"]),
    (("retune_jax.evaluation.skills", "--lengths=7:3"), [], ["7:3"]),
    (SWEEP, ["--over=train.steps"], ["--over=train.steps", "KEY=VALUE,VALUE"]),
    (SWEEP, ["--over=train.stepz=1,2"], ["--config.train.stepz", "did you mean 'steps'?"]),
    (SWEEP, ["--", "more"], ["'more'"]),
    (("retune_jax.report", "--workdirs="), [], ["--workdirs"]),
    (("retune_jax.report", "--workdirs=nowhere"), [], ["nowhere"]),
    (("retune_jax.report", "--workdirs=torn"), [], ["torn"]),
    (TOKENIZER, ["--vocab_size=x"], ["vocab_size", "x"]),
]

ENDLESS = """
from retune_jax.tasks.task import Answer, Call, Task, listed

class Circle(Task):
    name = "circle"
    trained_lengths = evaluated_lengths = (1, 3)
    def parse(self, text): return listed(text.strip().removeprefix("Again "))
    def prompt(self, items): return f"Again {list(items)}"
    def length(self, items): return len(items)
    def sample(self, rng, length): return (1,) * length
    def answer(self, items): return "1"
    def next(self, items): return items
    def solve(self, items):
        value = yield Call(self.prompt(self.next(items)))
        return Answer(value)

class Growing(Circle):
    name = "growing"
    def next(self, items): return (items[0] + 1,)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with everything that the rows name."""
    folder = tmp_path_factory.mktemp("user")
    run = small_run.make(folder)
    (folder / "configs").symlink_to(ROOT / "configs")
    for name in (
        "empty",
        "other",
        "torn",
        "newer",
        "odd",
        "untrained",
        "pretraining",
        "swapped",
        "evaluated",
        "evaluated-other",
    ):
        (folder / name).mkdir()
    config = json.loads((run / "config.json").read_text())
    (folder / "other" / "config.json").write_text('{"model_type": "bert", "hidden_size": 4096}')
    (folder / "torn" / "config.json").write_bytes((run / "config.json").read_bytes()[:100])
    (folder / "newer" / "config.json").write_text(json.dumps({**config, "train": {**config["train"], "stepz": 3}}))
    (folder / "odd" / "config.json").write_text(json.dumps({**config, "train": {**config["train"], "steps": "many"}}))
    (folder / "untrained" / "config.json").write_text(json.dumps(config))
    config_file.write(recipes.pretraining(""), folder / "pretraining" / "config.json")
    shutil.copytree(run, folder / "swapped", dirs_exist_ok=True)
    (folder / "swapped" / "base.json").write_text('{"fingerprint": "another"}')
    report = {"task": "parity", "method": "retune", "trained_lengths": [1, 2], "rows": []}
    (folder / "evaluated" / "eval.json").write_text(json.dumps(report))
    (folder / "torn" / "eval.json").write_text('{"task": "par')
    (folder / "a-file").write_text("")
    (folder / "plain.py").write_text("x = 1\n")
    (folder / "number.py").write_text("def get_config(arguments=''):\n    return 3\n")
    (folder / "broken.py").write_text("def get_config(arguments=''):\n    return nope\n")
    (folder / "syntax.py").write_text("def get_config(arguments=''\n    return 3\n")
    (folder / "endless.py").write_text(ENDLESS)
    return folder


@pytest.fixture(scope="module")
def commands(folder):
    with Commands(folder) as commands:
        yield commands


def files(folder):
    """All that is in a folder, with the time of its last change."""
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


@pytest.mark.parametrize("command, wrong, words", ROWS, ids=[" ".join((row[0][0].split(".", 1)[1], *row[1])) for row in ROWS])
def test_a_wrong_input_is_one_line_that_names_it(command, wrong, words, commands, folder):
    before = files(folder)
    done = commands.run(*command, *wrong)
    assert done.code == 2, done.err
    assert done.err.startswith("retune_jax: error: ") and done.err.count("\n") == 1, done.err
    assert done.out == ""
    assert all(word in done.err for word in words), done.err
    assert len(done.err) < 600
    assert files(folder) == before, "nothing is written"


def test_the_table_covers_every_command():
    assert len(ROWS) >= 60
    covered = {command[0] for command, _, _ in ROWS}
    runnable = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__main__")
        for path in (ROOT / "retune_jax").rglob("*.py")
        if "\n    cli.run(" in path.read_text()
    }
    assert covered == runnable
