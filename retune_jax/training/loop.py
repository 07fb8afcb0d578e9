"""A training run from its configuration to its evaluation, top to bottom.

What goes in is the configuration and the folder, and nothing else: every random choice is a function of `config.seed`
and the step, and a checkpoint holds the rest (parameters, optimizer, place in the data). So a run that was stopped, by
Ctrl-C or by a power cut, and started again with the same command ends with the same bits as one that was not.
"""

import contextlib
import functools
import sys
from pathlib import Path

import jax
from flax import nnx
from jax.sharding import NamedSharding
from ml_collections import ConfigDict, FrozenConfigDict

from retune_jax import config as recipes
from retune_jax import config_file, disk, distributed
from retune_jax.checkpoints import runs, weights
from retune_jax.data import builder, pipeline
from retune_jax.data.corpus import Corpus
from retune_jax.data.mixture import Replay
from retune_jax.distributed.agreement import Agreement
from retune_jax.evaluation import sizes
from retune_jax.evaluation.run import evaluate, evaluated
from retune_jax.models import sharding
from retune_jax.training import flops, loss, optimizer
from retune_jax.training.boards import Boards
from retune_jax.training.log import Diverged, Log
from retune_jax.training.profile import Profile
from retune_jax.training.stop import StopRequests
from retune_jax.training.validation import Validation


def train(config: ConfigDict, workdir: Path):
    """Trains to `config.train.steps`, from the last checkpoint in `workdir` where there is one, and evaluates.

    Raises:
        UserError: a mistake in the configuration or the folder; nothing was written then.
        SystemExit: with 130 or 143 after Ctrl-C or SIGTERM, when a checkpoint was saved; with one line where the loss
            is no longer a finite number.
        DiskError: the disk is full or broken.
    """
    # --- Everything that the user may have got wrong comes before the first byte is written. ---
    with distributed.alike():
        recipes.validate(config)
        config.base = config_file.whole_path(config.base)
        runs.check(workdir, config)
        mesh = sharding.make_mesh(config.mesh.data, config.mesh.fsdp, config.mesh.tensor)
        recipes.check_rows(config, mesh.shape["data"] * mesh.shape["fsdp"])
        base = weights.load_base(config.base, config.model)
        runs.check_base(workdir, base)
        base.shape.check_context(config.data.context_length)
        if config.task != recipes.PRETRAINING:
            sizes.for_evaluation(config, base.tokenizer)
        before = config_file.read_run(workdir) if runs.started(workdir) else config
    with contextlib.ExitStack() as ours:
        with distributed.alike():
            disk.claim(workdir)
            ours.enter_context(runs.hold(workdir))
            if distributed.is_first():
                runs.check(workdir, config)  # again: another run may have come and gone
                runs.claim(workdir, config)
                runs.keep_origin(workdir, base)
        try:
            _train(config, before, workdir, mesh, base)
        except Exception as error:
            if (trouble := disk.trouble(error)) is None:
                raise
            saved = runs.last_step(workdir)
            last = f"the last checkpoint is of step {saved}" if saved else "there is no checkpoint yet"
            raise disk.DiskError(f"{trouble}; {last}") from error


def _train(config: ConfigDict, before: ConfigDict, workdir: Path, mesh: jax.sharding.Mesh, base: weights.Base):
    # --- Data ---
    batches = pipeline.train_batches(
        source(config),
        base.tokenizer,
        sequence_length=config.data.sequence_length,
        context_length=config.data.context_length,
        rows=config.train.rows,
        weigh=config.train.loss,
        seed=config.seed,
        **order(config),
    )
    rows_over_mesh = NamedSharding(mesh, sharding.BATCH)

    # --- Model and optimizer: `params` is what is trained, `frozen` the rest. ---
    lora = weights.lora_config(config.lora)
    model = weights.assemble(
        base,
        lora,
        remat=config.train.remat,
        context_length=config.data.context_length,
        attention=config.train.attention,
        quantize=config.quantize,
        seed=config.seed,
        mesh=mesh,
    )
    graphdef, params, frozen = nnx.split(model, runs.trained(lora), ...)  # type: ignore[misc]
    params, frozen = nnx.to_pure_dict(params), nnx.to_pure_dict(frozen)
    adamw = optimizer.make_optimizer(config.train)
    layout = sharding.shardings(jax.eval_shape(adamw.init, params), mesh)
    state = {"params": params, "optimizer": jax.jit(adamw.init, out_shardings=layout)(params)}
    del model, params

    # --- Go on where the run stopped. ---
    checkpoints = runs.Checkpoints(workdir, keep=config.train.keep, keep_best=config.train.keep_best)
    start = 0
    if found := checkpoints.restore(**runs.abstract(state), data=None):
        start, restored = found
        if place_in_data := restored.pop("data"):  # an adapter from elsewhere has none
            batches.set_state(place_in_data)
        state = restored
        say(f"{workdir} goes on after step {start} of {config.train.steps}")
        if start < config.train.steps and (rates := optimizer.jump(before.train, config.train, start)):
            shown = f"train.steps was {before.train.steps} and is {config.train.steps} now"
            rates = f"the learning rate goes on at {rates[1]:.2g}, where it was {rates[0]:.2g}"
            say(f"{shown}: {rates} (schedule={config.train.schedule})")

    stale = start < config.train.steps or not (config.task == recipes.PRETRAINING or evaluated(workdir, config))
    if stale and distributed.is_first():
        runs.drop_results(workdir, base=start < config.train.steps)

    # --- The loop ---
    layout = jax.tree.map(lambda x: x.sharding, state)
    step_fn = _step(graphdef, FrozenConfigDict(config.train), jax.tree.structure(layout), tuple(jax.tree.leaves(layout)))
    dropout_key = jax.random.key(config.seed)
    log = Log(
        workdir / runs.METRICS if distributed.is_first() else None,
        start=start,
        steps=config.train.steps,
        every=config.train.log_every,
        schedule=optimizer.schedule(config.train),
        flops=flops.per_token(base.shape, 0 if lora is None else sum(x.size for x in jax.tree.leaves(state["params"]))),
        boards=Boards(workdir, config, start=start) if distributed.is_first() and start < config.train.steps else None,
    )
    validation = None
    if config.train.keep_best:
        validation = Validation(source(config, "validation"), base.tokenizer, config, graphdef, mesh)
    profile = Profile(workdir / "profile", config.profile.start, config.profile.steps)
    agreement = Agreement(mesh)
    step, stopped = start, 0
    try:
        # Of several processes none ends alone.
        with jax.set_mesh(mesh), StopRequests(unsaved=distributed.count() > 1) as stop:
            while step < config.train.steps and not stopped:
                profile.before(step)
                agreement.ask(stop.requested)
                with log.holding("data_wait_s"):
                    batch = next(batches)
                batch = pipeline.place(batch, rows_over_mesh)
                state, metrics = step_fn(state, frozen, batch, jax.random.fold_in(dropout_key, step))
                step += 1
                stop.unsaved = True
                log.step(step, metrics)
                stopped = agreement.answer(stop.requested)
                if step % config.train.save_every == 0 or step == config.train.steps or stopped:
                    held = validation and {runs.VALIDATION: validation.loss(state["params"], frozen)}
                    log.add(**held or {})
                    log.flush()  # no loss that is not finite gets into a checkpoint
                    with log.holding("checkpoint_s"):
                        checkpoints.save(step, **state, data=batches.get_state(), config=config, **held or {})
            checkpoints.wait()
    except Diverged as error:
        checkpoints.wait()
        saved = checkpoints.latest_step()
        last = f"the last checkpoint is of step {saved}" if saved else "there is no checkpoint yet"
        sys.exit(f"retune_jax: {error}; {last}. A lower config.train.learning_rate may help.")
    finally:
        profile.close()
        log.close()
        batches.close()
        checkpoints.close()
    if stopped:
        say(f"stopped after step {step}, saved; the same command goes on from there")
        sys.exit(128 + stopped)

    # --- What the run was for ---
    if step == start:
        say(f"{workdir} has all its {step} steps")
    has_base, has_eval = distributed.gather([(workdir / runs.BASE).exists(), evaluated(workdir, config)])[0]
    if lora is None and not has_base:
        params = sharding.on_host(state["params"])
        if distributed.is_first():
            weights.save_base(workdir / runs.BASE, base.shape, params, base.tokenizer.path)
    if config.task != recipes.PRETRAINING and not has_eval:
        model = sharding.of_this_process(nnx.merge(graphdef, state["params"], frozen), mesh)
        evaluate(workdir=workdir, config=config, model=model, tokenizer=base.tokenizer)


@functools.lru_cache(maxsize=2)
def _step(graphdef, train: FrozenConfigDict, structure, shardings: tuple):
    """The compiled update, the same one for all runs of a process that are alike, as those of a study are."""
    layout = jax.tree.unflatten(structure, shardings)
    return loss.make_step(graphdef, optimizer.make_optimizer(train), accumulate=train.accumulate, shardings=layout)


def say(line: str):
    """A line for the user, from one process."""
    if distributed.is_first():
        print(f"retune_jax: {line}", file=sys.stderr)


def source(config: ConfigDict, split: str = "train"):
    """The examples that the configuration asks for, written first where they do not exist."""
    if config.task == recipes.PRETRAINING:
        return _corpus(config, config.data.examples, config.data.curriculum)
    data = builder.prepare(
        config.task,
        config.method,
        scale=config.data.scale,
        per_length=config.data.per_length,
        resample=config.data.resample,
        wording=config.data.wording,
        seed=config.seed,
        data_dir=config.data.dir,
        progress=distributed.is_first(),
    )
    return data.source(split)


def order(config: ConfigDict) -> dict:
    """What else the stream of batches depends on: of the corpus who makes it, of a task what is mixed in and with what gaps."""
    if config.task == recipes.PRETRAINING:  # in the order in which it is to be learned
        return {"shuffle": False, "gaps": config.data.gaps, "workers": config.data.workers}
    replay = None
    if config.data.replay:
        corpus = _corpus(config, 10_000_000, ((0, config.data.replay_items),))
        replay = Replay(corpus, config.data.replay, config.data.replay_after)
    return {"replay": replay, "gaps": config.data.gaps, "gaps_after": config.data.gaps_after}


def _corpus(config: ConfigDict, examples: int, curriculum: tuple) -> Corpus:
    data = config.data
    return Corpus(config.seed, examples, curriculum, data.repeats, data.context_length, data.sums)
