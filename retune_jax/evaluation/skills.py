"""What a model can do without a task, by length: the share of texts of which it would write every token.

    python -m retune_jax.evaluation.skills                                        # the base that ships
    python -m retune_jax.evaluation.skills --base=runs/base-10/base --lengths=5,12,20,28,40,60 --problems=128
    python -m retune_jax.evaluation.skills --workdir=runs/addition-retune-tiny    # a run so far, and its task

How far a tuned model generalises is decided by what its base copies exactly at a length. A model is asked for what
data/corpus teaches, in texts that no training has seen, and read with the right text before each token (teacher forcing):
one pass says whether greedy decoding would write all of it. For a run of a task its own contexts come too, the first call and
the last answer of true solutions, at the lengths asked for. Their problems are of a seed of their own: a run can be chosen by
them, and be evaluated afterwards on problems that had no say in it.
"""

import json
import random
from collections.abc import Callable, Sequence

import numpy as np

from retune_jax import cli, disk
from retune_jax import config as recipes
from retune_jax.data.corpus import sentences
from retune_jax.data.corpus.draft import LONGEST_PAIR
from retune_jax.data.corpus.facts import SUM_WITH_CARRY
from retune_jax.data.encode import encode
from retune_jax.errors import UserError
from retune_jax.progress import bar
from retune_jax.tasks.task import Task

SEED = 0x5C111  # sets these draws apart from all training and from the evaluation
ROWS, PADDED = 16, 128  # texts a pass; their length is rounded up to a multiple of this, so that few shapes are compiled


def _rewriting(draw: Callable[[random.Random, int], list[str]], places: int = 1):
    def example(rng, length):
        lists = [draw(rng, length) for _ in range(places)]
        sentence = sentences.frame(rng, places)
        given, wanted = (sentence.format(*(sentences.shown(some[cut:]) for some in lists)) for cut in (0, 1))
        return f" {given}\nSolution: Call:", f" {wanted}\n"

    return example


def _bits(rng, length, repeats=0.0):
    return sentences.repeating(rng, [rng.choice("01") for _ in range(length)], repeats)


def _signed(rng, length):
    return [str(rng.randint(-5, 5)) for _ in range(length)]


def _numbers(rng, length):
    one, two = (sentences.number(rng, length, 0.0) for _ in range(2))
    words = [sentences.word(rng) for _ in range(3)]
    given, wanted = (f"{words[0]} {one[cut:]} {words[1]} {words[2]} with {two[cut:]}" for cut in (0, 1))
    return f" {given}\nSolution: Call:", f" {wanted}\n"


def _put_before(rng, length):
    number, digit = sentences.number(rng, length, 0.0), rng.choice("0123456789")
    return f" {sentences.frame(rng, 1).format(number)}\nPut before: {digit}\nSolution:", f" {digit}{number}"


def _labelled_line(rng, length):
    (first, second), number = sentences.labels(rng), sentences.number(rng, length, 0.0)
    old, new, digit = rng.choice("01"), rng.choice("01"), rng.choice("0123456789")
    given = f" Return: {first} {old}, {second} {number}\nSet {first}: {new}\nPut before: {digit}\nAnswer:"
    return given, f" {first} {new}, {second} {digit}{number}"


def _form(rng, length):
    lists = [sentences.shown(_signed(rng, length)) for _ in range(2)]
    while {"Task", "Note"} & set((form := sentences.frame(rng, 2)).split()):
        pass
    given = f" Task: {lists[0]}\nNote: {lists[1]}\nForm: {form.format('Note', 'Task')}\nAnswer:"
    return given, f" {form.format(*lists[::-1])}\n"


def _sum_of_firsts(rng, length):
    one, two = (sentences.number(rng, length, 0.0) for _ in range(2))
    carry = rng.randint(0, 1)
    given = f" {sentences.word(rng)} {one} with {two}\nNote: {carry}\nadd First and First and carry Note\nAnswer:"
    return given, f" {SUM_WITH_CARRY.value(int(one[0]), int(two[0]), carry)}"


def _xor_of_first(rng, length):
    bits, bit = _bits(rng, length), rng.randint(0, 1)
    given = f" {sentences.frame(rng, 1).format(sentences.shown(bits))}\nReturn: {bit}\nFirst xor Return\nAnswer:"
    return given, f" {int(bits[0]) ^ bit}"


def _calculating(labelled: bool, text: str, value: Callable[[list[int], list[int]], object], cut: int):
    """An expression with the first items of two lists; these have labels, or stand in a sentence and are called a and b."""

    def example(rng, length):
        one, two = ([int(item) for item in _signed(rng, length + cut)] for _ in range(2))
        if cut > 1 and rng.random() < 0.5:  # or else few comparisons would hold
            two[0] = one[0] + two[2]
        shown = [sentences.shown(list(map(str, some))) for some in (one, two)]
        names = ("Task", "Note") if labelled else ("a", "b")
        lists = "Task: {}\nNote: {}" if labelled else sentences.frame(rng, 2)
        return f" {lists.format(*shown)}\n{text.format(*names)}\nAnswer:", f" {value(one, two)}"

    return example


MAXIMUM = "max({1}[0], {0}[0] + {1}[1])", lambda one, two: max(two[0], one[0] + two[1]), 1
COMPARISON = "{1}[0] == {0}[0] + {1}[2]", lambda one, two: two[0] == one[0] + two[2], 2

# Name: the longest length it is asked for, and what draws a text and its continuation.
SKILLS = {
    "random bits": (1000, _rewriting(_bits)),
    "self-repeating bits": (1000, _rewriting(lambda rng, length: _bits(rng, length, repeats=1.0))),
    "two numbers": (1000, _numbers),
    "one signed list": (sentences.SIGNED_UP_TO, _rewriting(_signed)),
    "two signed lists": (LONGEST_PAIR, _rewriting(_signed, places=2)),
    "form with two lists": (LONGEST_PAIR, _form),
    "digit put before a number": (1000, _put_before),
    "labelled line changed": (1000, _labelled_line),
    "sum of first digits": (1000, _sum_of_firsts),
    "first bit xor a line": (1000, _xor_of_first),
    "maximum of sums": (LONGEST_PAIR, _calculating(False, *MAXIMUM)),
    "comparison of sums": (LONGEST_PAIR, _calculating(False, *COMPARISON)),
    "maximum, labelled": (LONGEST_PAIR, _calculating(True, *MAXIMUM)),
    "comparison, labelled": (LONGEST_PAIR, _calculating(True, *COMPARISON)),
}
CALLS, ANSWERS = "task: first call", "task: last answer"


class Reader:
    """Reads texts with a model, and says which it would have written.

    Args:
        model: takes tokens, positions and segment ids [B, T], and no dropout key.
        tokenizer: the model's.
    """

    def __init__(self, model, tokenizer):
        import jax
        from flax import nnx

        graphdef, state = nnx.split(model)

        @jax.jit
        def wrong(state, tokens_BT, targets_BT, segments_BT, asked_BT):
            positions_BT = np.broadcast_to(np.arange(tokens_BT.shape[1]), tokens_BT.shape)
            logits_BTV = nnx.merge(graphdef, state)(tokens_BT, positions_BT, segments_BT, None)
            return ((logits_BTV.argmax(-1) != targets_BT) & asked_BT).sum(-1)

        self.tokenizer = tokenizer
        self.wrong_B = lambda *batch: np.asarray(wrong(state, *batch))

    def exact(self, examples: Sequence[dict]) -> list[bool]:
        """For each example {"inputs", "outputs"}, whether every token of its outputs would be written."""
        encoded = [encode(self.tokenizer, example, "sum") for example in examples]
        order = sorted(range(len(encoded)), key=lambda i: len(encoded[i]["tokens_T"]))  # like lengths into one pass
        found = np.zeros(len(encoded), bool)
        for start in range(0, len(order), ROWS):
            part = order[start : start + ROWS]
            length = -(-max(len(encoded[i]["tokens_T"]) for i in part) // PADDED) * PADDED
            tokens, targets, segments, asked = (np.zeros((ROWS, length), np.int32) for _ in range(4))
            for row, one in enumerate(encoded[i] for i in part):
                size = len(one["tokens_T"])
                tokens[row, :size], targets[row, :size], segments[row, :size] = one["tokens_T"], one["targets_T"], 1
                asked[row, :size] = one["weights_T"] > 0
            found[part] = self.wrong_B(tokens, targets, segments, asked > 0)[: len(part)] == 0
        return found.tolist()


def skill_examples(name: str, length: int, count: int) -> list[dict]:
    """So many texts of a skill at a length; none where the corpus has no such length."""
    longest, draw = SKILLS[name]
    if length > longest:
        return []
    drawn = (draw(random.Random(f"{SEED}/{name}/{length}/{i}"), length) for i in range(count))
    return [{"inputs": [given], "outputs": [wanted]} for given, wanted in drawn]


def task_examples(task: Task, method: str, length: int, count: int) -> dict[str, list[dict]]:
    """The first call (where the method calls) and the last answer of true solutions to problems of a length."""
    rng = np.random.default_rng([SEED, length])
    found: dict[str, list[dict]] = {CALLS: [], ANSWERS: []}
    for _ in range(count):
        context = task.written(task.sample(rng, length), method)
        inputs, outputs = context.inputs(task.opening(method)), context.outputs()
        joined = "".join(before + text for before, text in zip(inputs[:-1], outputs[:-1]))
        found[ANSWERS].append({"inputs": [joined + inputs[-1]], "outputs": outputs[-1:]})
        if len(outputs) > 1:
            found[CALLS].append({"inputs": inputs[:1], "outputs": outputs[:1]})
    return found


def measure(model, tokenizer, names: Sequence[str], lengths: Sequence[int], count: int, task: Task | None, method: str) -> dict:
    """{kind: {length: share of texts that are exact}} of the skills named, and of a task's contexts where one is given."""
    cells = [(name, length, skill_examples(name, length, count)) for name in names for length in lengths]
    for length in lengths if task else ():
        cells += [(name, length, found) for name, found in task_examples(task, method, length, count).items()]
    reader, table = Reader(model, tokenizer), {}
    with bar(total=sum(len(examples) for _, _, examples in cells), unit="text", desc="skills") as shown:
        for name, length, examples in cells:
            if examples:
                table.setdefault(name, {})[length] = float(np.mean(reader.exact(examples)))
                shown.update(len(examples))
    return table


def markdown(table: dict, lengths: Sequence[int]) -> str:
    """The shares as a Markdown table, a line a kind."""
    lines = [f"| exact | {' | '.join(map(str, lengths))} |", "|---" * (len(lengths) + 1) + "|"]
    for name, shares in table.items():
        cells = (f"{shares[length]:.3f}" if length in shares else "-" for length in lengths)
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main(arguments: list[str]):
    """The command line."""
    cli.no_arguments(arguments)
    lengths = recipes.read_lengths(LENGTHS.value)
    from retune_jax import tasks
    from retune_jax.checkpoints import runs, weights  # here, so that --help and mistakes need not wait for JAX
    from retune_jax.models import presets, sharding

    mesh, task, method = sharding.make_mesh(-1, 1, 1), None, ""
    if WORKDIR.value:
        config, model, tokenizer = runs.load_model(disk.folder(WORKDIR.value, "--workdir"), mesh)
        if config.task != recipes.PRETRAINING:
            task, method = tasks.get(config.task), config.method
    else:
        base = weights.load_base(BASE.value, presets.CUSTOM)
        model = weights.assemble(base, None, remat="none", context_length=None, seed=0, mesh=mesh)
        tokenizer = base.tokenizer
    if TASK_ONLY.value and task is None:
        raise UserError("--task_only: give the folder of a run of a task, --workdir=DIR")
    table = measure(model, tokenizer, () if TASK_ONLY.value else tuple(SKILLS), lengths, PROBLEMS.value, task, method)
    if OUTPUT.value:
        report = {"base": BASE.value, "workdir": WORKDIR.value, "problems": PROBLEMS.value, "exact": table}
        try:
            disk.write(disk.folder(OUTPUT.value, "--output"), json.dumps(report, indent=1) + "\n")
        except OSError as error:
            raise UserError(f"--output: {OUTPUT.value} cannot be written: {error.strerror}") from error
    print(markdown(table, lengths))


if __name__ == "__main__":
    from absl import flags

    BASE = flags.DEFINE_string("base", "tiny", "The base to ask: tiny, which ships, or a folder.")
    WORKDIR = flags.DEFINE_string("workdir", None, "The folder of a run to ask instead, of a task or of the base's training.")
    LENGTHS = flags.DEFINE_string("lengths", "5,12,20,28,40,60", "Lengths such as 1:40 or 4,8,16.")
    PROBLEMS = flags.DEFINE_integer("problems", 64, "Texts of each kind and length.", lower_bound=1)
    TASK_ONLY = flags.DEFINE_boolean("task_only", False, "Ask for the contexts of the run's task alone.")
    OUTPUT = flags.DEFINE_string("output", None, "JSON file to write the shares to.")
    cli.run(main)
