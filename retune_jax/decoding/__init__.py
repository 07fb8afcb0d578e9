r"""The recursive decoder: a model that calls itself, for many problems at a time, as one compiled program.

    decoder = RecursiveDecoder(model, tokenizer, config)
    decoder.solve(["What is the parity of [0, 1, 1]?"])[0].value        # "0"

Many problems are worked on side by side, each in a *slot*. `advance` repeats a pass of the model over all slots (`step.py`) and
a *transition* (`transition.py`): slots whose segment is complete open a callee's context or go back to the caller's.
The host (`decoder.py`) only puts problems in and takes results out. `state.py` says what a slot consists of, `reading.py` how
a call is recognised, `draft.py` how tokens are guessed, `move.py` how keys and values are kept, `memo.py` how no subproblem is
solved twice, `memory.py` what all that takes, `result.py` what comes out. docs/decoder.md is the whole of it as a text.

A parity of three bits, step by step
====================================
The tiny tokenizer cuts ` What is the parity of [0, 1, 1]?` into 13 pieces and `\nSolution:` into 3. One slot, 8 tokens a step:

1. The host fills the slot: BOS and these 16 ids. `known` = 17 tokens are certain, `fed` = 0 of them have keys and values.

2. Passes of the model. The first two feed tokens 0-7 and 8-15 and yield nothing. The third feeds the last known token, `:`, and
   seven guesses. A decoder that has seen nothing yet has nothing to guess from here, and gets one token for certain, ` Call`;
   the fourth pass gets `:`. Behind `Call:` the prompt is copied: ` What is the parity of [` holds, six guesses, and the next
   one, the first item `0`, does not, because the model wants `1`. What it wants is what counts: `known` = 26. That a copy jumps
   over two tokens behind ` of [` is remembered, and so are the words. The sixth pass completes the segment:

       window   ⟨bos⟩ What is the parity of [0, 1, 1]?\nSolution: Call: What is the parity of [1, 1]?\n
                known = fed = 31, segment = 17

3. The transition reads tokens 17-30: they hold `Call:` and end with a newline, a call. The caller's 31 tokens, keys and values
   go onto the stack at 0, and a callee opens with BOS, the prompt's ids out of the call, and `\nSolution:`. Its first 7 tokens
   are those of its caller, whose keys and values lie there still: only the others are to be fed:

       stack    a×31                                                        depth = 1, base = 31
       window   ⟨bos⟩ What is the parity of [1, 1]?\nSolution:              known = segment = 15, fed = 7

4. More passes, and the callee calls in turn. It has written 27 tokens, which go onto the stack behind its caller's 31:

       stack    a×31 b×27                                                   depth = 2, base = 58
       window   ⟨bos⟩ What is the parity of [1]?\nSolution:                 known = segment = 13, fed = 8

5. This one answers: ` 1` and EOS. The transition takes its caller off the stack, with all its keys and values, and pastes the
   value behind the call. Only the 7 tokens of the paste are to be fed:

       stack    a×31                                                        depth = 1, base = 31
       window   ⟨bos⟩ … [1, 1]?\nSolution: Call: … [1]?\nReturn: 1\nAnswer:   known = segment = 34, fed = 27

6. It answers ` 0`, and in the same way so does the top context:

       stack    (empty)                                                     depth = 0, base = 0
       window   ⟨bos⟩ … [0, 1, 1]?\nSolution: Call: … [1, 1]?\nReturn: 0\nAnswer: 0     status ok

7. `advance` reports the status; the host takes the slot's log, from which it rebuilds the tree of contexts, and fills the slot
   with the next problem. The log holds what was generated, 37 tokens with the EOS of each segment:

        Call: What is the parity of [1, 1]?\n CALLED   Call: What is the parity of [1]?\n CALLED
        1 ANSWERED   0 ANSWERED   0 ANSWERED

That took 16 passes. The same problem takes 13 when it comes again, since the first guesses are better: the words up to the
first item are known by heart, and so is the jump over it.

What is guaranteed
==================
A problem's text depends on the model, its prompt and, when drawing, on the seed and on how often the prompt came before; not
on the number of slots, on what is in the other ones, on how many tokens a step takes, on guessing, the memo or the stack policy
(up to rounding in the model's own arithmetic, where two tokens are equally likely). Whatever a model writes, its problem ends
with a status, within the config's limits. When several are passed at once, the status is the first of: `bad_call`, `cycle`,
`max_depth`, `call_budget`, `context_full`, `stack_full`.
"""

from retune_jax.decoding.config import DecoderConfig
from retune_jax.decoding.decoder import RecursiveDecoder
from retune_jax.decoding.result import Result

__all__ = ["DecoderConfig", "RecursiveDecoder", "Result"]
