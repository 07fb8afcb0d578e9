"""One pass of the model for every slot: prefill, decoding and the checking of guesses are the same thing.

A pass feeds C tokens of each slot, beginning with the first that has no keys and values yet: known ones as far as there
are any, then guesses. The model's choice after each of them says whether the next one is right:

    fed →  0 1 2 3 4 5 6 7            C = 4, fed = 4, known = 6 window p p p p p p g h            the pass feeds p p g h
    at 4, 5, 6, 7 choices        · x y z            x stands behind the last known token, so it is certain. If x = g,
    then g was right,
                                      and y, the choice behind it, is certain too; if y = h, so is z.

So a pass yields one token for certain and one more for each guess that holds, and all are exactly what feeding them one
by one would have given. What was fed beyond that is overwritten by the next pass.

A slot that is not running, or whose active window has no room for what it would feed, feeds whatever lies at `fed`; nothing of
it is kept.

Shapes: B slots, C tokens of a step, X indices of a window, V vocabulary.
"""

import dataclasses

import jax
import jax.numpy as jnp

from retune_jax.decoding import draft
from retune_jax.decoding.config import DecoderConfig
from retune_jax.decoding.reading import Tables, Words
from retune_jax.decoding.result import Work
from retune_jax.decoding.state import CONTEXT_FULL, ENDED, RUNNING, TOKEN_BUDGET, Slots, State, mix, pick, take


def step(model, words: Words, tables: Tables, config: DecoderConfig, state: State) -> State:
    """Feeds C tokens a slot."""
    slots, memory = state.slots, state.memory
    with jax.named_scope("draft"):
        guesses = None
        if config.draft:
            tokens_BX, guesses = draft.guess(words, tables, memory, slots, config.tokens_per_step)
            slots = dataclasses.replace(slots, tokens_BX=tokens_BX)
        # Where there is no room, what was fed last is fed again, so that nothing is written over.
        start_B = jnp.minimum(slots.fed_B, slots.tokens_BX.shape[1] - config.tokens_per_step)
        at_BC = start_B[:, None] + jnp.arange(config.tokens_per_step)
        fed_BC = take(slots.tokens_BX, at_BC)
    with jax.named_scope("model"):
        logits_BCV, cache = model.step(fed_BC, start_B, state.cache)
    with jax.named_scope("choose"):
        chosen_BC = choose(config, slots, logits_BCV, at_BC + 1)
    with jax.named_scope("accept"):
        accepted, new_B, last_B = accept(words, config, slots, chosen_BC)
    if config.trace:
        with jax.named_scope("trace"):
            accepted = dataclasses.replace(accepted, score_B=slots.score_B + score(slots, accepted, chosen_BC, logits_BCV))
    if config.draft:
        with jax.named_scope("learn"):
            memory, source_B = draft.learn(tables, words.eos, memory, slots, guesses, new_B, last_B)
            accepted = dataclasses.replace(accepted, source_B=source_B)
    return State(accepted, cache, state.stack, memory, state.memo)


def choose(config: DecoderConfig, slots: Slots, logits_BCV, at_BC):
    """The token for each window index `at`: the likeliest, or a draw that depends on nothing but which token it is.

    A draw's noise is a hash of the seed, the problem, the context's path in the tree of calls, the index and the token: the
    same token is drawn whatever the slot, the neighbours or the schedule, and whether it was guessed or not, so that
    checking a guess against it keeps the distribution exactly. The largest of logits / temperature + Gumbel noise is such a
    draw.
    """
    if config.temperature == 0:
        return _likeliest(logits_BCV)
    # A counter-based generator (Salmon et al., 2011) with a hash in place of a cipher: it fuses with the maximum, so that no
    # noise of the size of the logits is ever stored.
    key_B = jnp.uint32(config.seed % 2**32)
    for part_B in (slots.problem_B, pick(slots.path_BF, slots.depth_B)):
        key_B = mix(key_B * jnp.uint32(0x9E3779B1) + part_B.astype(jnp.uint32) + 1)
    key_BC = mix(key_B[:, None] * jnp.uint32(0x9E3779B1) + at_BC.astype(jnp.uint32))
    token_V = mix(jnp.arange(logits_BCV.shape[-1], dtype=jnp.uint32) + 1)
    bits_BCV = mix(mix(key_BC[..., None] ^ token_V) + key_BC[..., None])
    uniform_BCV = ((bits_BCV >> 9).astype(jnp.float32) + 0.5) * 2.0**-23  # strictly between 0 and 1
    noise_BCV = -jnp.log(-jnp.log(uniform_BCV))
    return _likeliest(likely(config, logits_BCV / config.temperature) + noise_BCV)


def likely(config: DecoderConfig, logits_BCV):
    """The logits, with -inf for the tokens that top-k (Fan et al., 2018) and top-p (Holtzman et al., 2020) leave out."""
    if config.top_k:
        least_BC1 = jax.lax.top_k(logits_BCV, min(config.top_k, logits_BCV.shape[-1]))[0][..., -1:]
        logits_BCV = jnp.where(logits_BCV >= least_BC1, logits_BCV, -jnp.inf)
    if config.top_p < 1:
        falling_BCV = -jnp.sort(-logits_BCV, axis=-1)
        share_BCV = jax.nn.softmax(falling_BCV, axis=-1)
        before_BCV = jnp.cumsum(share_BCV, axis=-1) - share_BCV  # what the likelier ones have
        least_BC1 = jnp.min(jnp.where(before_BCV < config.top_p, falling_BCV, jnp.inf), axis=-1, keepdims=True)
        logits_BCV = jnp.where(logits_BCV >= least_BC1, logits_BCV, -jnp.inf)
    return logits_BCV


def _likeliest(logits_BCV):
    """The first token with the largest logit. A maximum and a minimum are vectorised on a CPU, an argmax is not."""
    token_V = jnp.arange(logits_BCV.shape[-1], dtype=jnp.int32)
    largest_BCV = logits_BCV == logits_BCV.max(-1, keepdims=True)
    return jnp.min(jnp.where(largest_BCV, token_V, token_V[-1]), axis=-1)


def score(slots: Slots, accepted: Slots, chosen_BC, logits_BCV):
    """Log-probability of what `accepted` has beyond `slots`, as the model gives it, at temperature 1: float32 [B]."""
    likely_BC = jnp.take_along_axis(jax.nn.log_softmax(logits_BCV), chosen_BC[..., None], axis=-1)[..., 0]
    count_BC = jnp.arange(chosen_BC.shape[1]) - (slots.known_B - slots.fed_B - 1)[:, None]
    taken_BC = (count_BC >= 0) & (count_BC < (accepted.used_B - slots.used_B)[:, None])
    return jnp.where(taken_BC, likely_BC, 0).sum(1)


def accept(words: Words, config: DecoderConfig, slots: Slots, chosen_BC) -> tuple[Slots, jax.Array, jax.Array]:
    """Takes over the choices that are certain, up to EOS, the window's end or the problem's last token.

    Returns the slots, how many choices were certain, and the last of them.
    """
    count_BC = jnp.arange(config.tokens_per_step)
    live = slots.tokens_BX.shape[1] - config.tokens_per_step
    running_B = (slots.status_B == RUNNING) & (slots.fed_B < live)
    # The choice at `first` stands behind the last known token; those before it only repeat what is known.
    first_B = slots.known_B - slots.fed_B - 1
    guessed_BC = take(slots.tokens_BX, slots.fed_B[:, None] + 1 + count_BC)
    held_BC = (chosen_BC == guessed_BC) & (chosen_BC != words.eos) & config.draft
    goes_on_BC = (count_BC < first_B[:, None]) | held_BC
    certain_BC = jnp.cumprod(jnp.pad(goes_on_BC[:, :-1], ((0, 0), (1, 0)), constant_values=True), axis=1) > 0
    certain_BC &= count_BC >= first_B[:, None]
    new_B = jnp.where(running_B, certain_BC.sum(1), 0)
    last_B = pick(chosen_BC, first_B + new_B - 1)
    eos_B = (new_B > 0) & (last_B == words.eos)

    # Token by token, the budget is asked first, then EOS is taken (it needs no room), then the window.
    text_B = new_B - eos_B
    budget_B, room_B = config.max_tokens - slots.used_B, config.window - slots.known_B
    over_budget_B, over_room_B = new_B > budget_B, text_B > room_B
    kept_B = jnp.minimum(text_B, jnp.minimum(budget_B, room_B))
    status_B = jnp.where(eos_B, ENDED, RUNNING)
    status_B = jnp.where(over_room_B, CONTEXT_FULL, status_B)
    status_B = jnp.where(over_budget_B & (~over_room_B | (budget_B <= room_B)), TOKEN_BUDGET, status_B)
    ended_B = status_B == ENDED

    # All new tokens but the last are guesses that held, and lie where they belong.
    at_BX = jax.lax.broadcasted_iota(jnp.int32, slots.tokens_BX.shape, 1)
    written_BX = (at_BX == (slots.known_B + new_B - 1)[:, None]) & (new_B > 0)[:, None]
    known_B = slots.known_B + kept_B
    # The last token has not been fed yet, unless EOS was behind it.
    fed_B = jnp.minimum(slots.fed_B + config.tokens_per_step, known_B - 1 + ended_B)
    work = {"computed": config.tokens_per_step * running_B.astype(jnp.int32), "guessed": jnp.maximum(new_B - 1, 0)}
    slots = dataclasses.replace(
        slots,
        tokens_BX=jnp.where(written_BX, last_B[:, None], slots.tokens_BX),
        known_B=known_B,
        fed_B=jnp.where(running_B, fed_B, slots.fed_B),
        status_B=jnp.where(running_B, status_B, slots.status_B),
        used_B=slots.used_B + kept_B + jnp.where(running_B, ended_B, 0),
        work_BN=slots.work_BN + jnp.stack([work.get(name, jnp.zeros_like(new_B)) for name in Work._fields], axis=1),
    )
    return slots, new_B, last_B
