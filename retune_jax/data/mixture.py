"""Replay: some of the base's own text among a task's examples, so that tuning on short problems keeps what is long.

A model that is tuned on lists of up to 21 bits alone forgets, step by step, how to copy longer ones. A share of the
corpus that the base was made from, which has no task in it, keeps that alive.

    >>> mixture = Mixture(["a", "b", "c"], ["x", "y"], share=0.25)
    >>> [mixture[i] for i in range(len(mixture))]
    ['a', 'b', 'c', 'x']
"""


class Mixture:
    """A random-access source: all of `main`, and so many examples of `other` that they make up `share` of the whole."""

    def __init__(self, main, other, share: float):
        self.main, self.other, self.share = main, other, share
        self.length = round(len(main) / (1 - share))
        while self.length - int(self.length * share) > len(main):  # rounding has made room for one too many
            self.length -= 1
        while self.length - int(self.length * share) < len(main):
            self.length += 1

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int):
        """Example `index`; those of `other` stand at even distances."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        before, after = int(index * self.share), int((index + 1) * self.share)
        return self.other[before % len(self.other)] if after > before else self.main[index - before]
