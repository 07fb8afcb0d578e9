"""A trained run that takes problems as people write them, and says of each what became of it.

What is a problem of the run's task is written the way that the model was trained on, and judged. Any other text is put to the
model as it is.
"""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from ml_collections import ConfigDict

from retune_jax import config as recipes
from retune_jax import tasks
from retune_jax.checkpoints import runs
from retune_jax.decoding import DecoderConfig, RecursiveDecoder, Result
from retune_jax.evaluation import calltree, sizes
from retune_jax.models import lora, sharding
from retune_jax.models.llama import apart
from retune_jax.protocol import Context
from retune_jax.tasks import ProblemError, Task

# What a free prompt is given: nobody knows what it takes.
FREE = sizes.Need(window=128, stack=2048, depth=32, tokens=4096, calls=100)


@dataclasses.dataclass(frozen=True)
class Asked:
    """A problem on its way to the model.

    Attributes:
        text: as it was given.
        prompt: as the model is asked.
        task: the run's, where the text is a problem of it; else None.
        problem: what the task read.
    """

    text: str
    prompt: str
    task: Task | None = None
    problem: object = None


class Solver:
    """A run's model, ready for problems."""

    def __init__(self, config, model, tokenizer):
        """Takes a run's configuration, its model with the adapter merged, and the tokenizer."""
        self.config, self.model, self.tokenizer = config, model, tokenizer
        self.task = None
        if config.task != recipes.PRETRAINING:
            self.task = tasks.reworded(tasks.get(config.task), config.eval.get("wording", tasks.PAPER))

    @classmethod
    def load(cls, workdir: Path, config: ConfigDict) -> "Solver":
        """The run in `workdir`, of that configuration."""
        mesh = sharding.fitting_mesh(config.mesh.data, config.mesh.fsdp, config.mesh.tensor)
        _, model, tokenizer = runs.load_model(workdir, mesh, config)
        return cls(config, apart(lora.merge(model), donate=True), tokenizer)

    def read(self, text: str) -> Asked:
        """What to ask the model for that text."""
        if self.task is not None:
            try:
                problem = self.task.parse(text)
                return Asked(text, self.task.question(problem, self.config.method), self.task, problem)
            except ProblemError:
                pass
        return Asked(text, text.strip())

    def solve(
        self,
        texts: Sequence[str],
        watch: Callable[[int, list[calltree.ContextRecord]], None] | None = None,
        measure: bool = False,
    ) -> Iterator[dict]:
        """Solves problems side by side and yields a record for each, in their order.

        Args:
            texts: the problems.
            watch: called with the number and the tree so far of the first problem at work, now and then.
            measure: say of each segment how many tokens it has and how likely the model found them.

        Yields:
            A dict with `problem` (the text), `prompt`, `task` (None for a free prompt), `status`, `value`, `answer` (the right
            one), `correct` (both None for a free prompt), `calls`, `depth`, `tokens`, `first_mistake` and `contexts`
            (`calltree`'s records).
        """
        asked = [self.read(text) for text in texts]
        decoder = self._decoder(asked, measure)

        def look(number: int, tree: Context):
            watch(number, self._records(asked[number], tree))

        done: dict[int, Result] = {}
        following = 0
        for number, result in decoder.stream([one.prompt for one in asked], look if watch else None):
            done[number] = result
            while following in done:
                yield self._told(asked[following], done.pop(following))
                following += 1

    def _decoder(self, asked: Sequence[Asked], trace: bool) -> RecursiveDecoder:
        """A decoder large enough for these problems; of few sizes, so that what was compiled is of use again."""
        slots = 1
        while slots < min(len(asked), self.config.decode.slots):
            slots *= 2
        if self.task is None:
            sized = DecoderConfig(**{**self.config.decode, **sizes.roomy(FREE, FREE.depth)})
        else:
            sized = sizes.for_problems(self.config, self.tokenizer, [one.problem for one in asked if one.task])
        free = [len(self.tokenizer.encode(one.prompt)) for one in asked if one.task is None]
        window = sized.window
        while window < max(free, default=0) + FREE.window:  # so that a free prompt has room for an answer
            window *= 2
        slots = min(slots, max(1, self.config.decode.slots))
        sized = dataclasses.replace(sized, window=window, slots=slots, trace=sized.trace or trace)
        return RecursiveDecoder(self.model, self.tokenizer, sized)

    def _records(self, asked: Asked, tree: Context) -> list[calltree.ContextRecord]:
        return calltree.records(asked.task, self.config.method, tree)

    def _told(self, asked: Asked, result: Result) -> dict:
        tree = self._records(asked, result.context)
        calltree.measured(tree, result.spoken)
        correct = answer = mistake = None
        value = result.value
        if asked.task is not None:
            answer = asked.task.answer(asked.problem)
            value = asked.task.final(self.config.method, result.text) if result.status == "ok" else ""
            correct = result.status == "ok" and asked.task.grade(asked.problem, self.config.method, result.text)
            mistake = calltree.first_mistake(tree)
        return {
            "problem": asked.text,
            "prompt": asked.prompt,
            "task": asked.task.name if asked.task else None,
            "status": result.status,
            "value": value,
            "answer": answer,
            "correct": correct,
            "calls": result.calls,
            "depth": result.depth,
            "tokens": result.tokens,
            "first_mistake": mistake,
            "contexts": tree,
        }
