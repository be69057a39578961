"""Which rows share texts: how large a batch can be without false negatives, and which rows hang together.

Knows keys of rows, not texts. Its arrays take some 30 bytes for each key while it works.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from grace_train.data.sources import TrainingData


def smallest_batch(data: TrainingData, enough: int) -> int:
    """A size that a batch without false negatives reaches, whatever the order in which its rows are drawn.

    Rows that share nothing with others can always be added, so their number is a proven bound. Where it is too small,
    rows are chosen that stand in the way of most others first, which is about the worst that drawing can do.

    Args:
        data: The sources.
        enough: Larger sizes are not looked for.

    Returns:
        The size, at most ``enough``.
    """
    keys, counts = data.keys()
    starts = np.cumsum(counts) - counts
    degree = np.add.reduceat(_others(keys), starts)
    if np.count_nonzero(degree == 0) >= enough:
        return enough
    used: set[int] = set()
    size = 0
    for row in np.argsort(-degree, kind="stable"):
        own = keys[starts[row] : starts[row] + counts[row]].tolist()
        if used.isdisjoint(own):
            used.update(own)
            size += 1
            if size == enough:
                break
    return size


def _others(keys: NDArray[np.uint64]) -> NDArray[np.int64]:
    """In how many other rows each key occurs."""
    ordered = np.sort(keys)
    repeated, more = np.unique(ordered[1:][ordered[1:] == ordered[:-1]], return_counts=True)
    if not len(repeated):
        return np.zeros(len(keys), np.int64)
    place = np.minimum(np.searchsorted(repeated, keys), len(repeated) - 1)
    return np.where(repeated[place] == keys, more[place], 0)


class RowGraph:
    """Rows, joined where they share a key.

    Args:
        keys: ``[keys]`` those of all rows, one row after the other.
        counts: ``[rows]`` how many each row has.
    """

    def __init__(self, keys: NDArray[np.uint64], counts: NDArray[np.int64]) -> None:
        self._keys, self._counts = keys, counts
        self._starts = np.cumsum(counts) - counts
        order = np.argsort(keys, kind="stable")
        self._ordered = keys[order]
        self._rows = np.repeat(np.arange(len(counts)), counts)[order]

    def component(self, row: int, most: int, beyond: NDArray[np.bool_]) -> list[int] | None:
        """The rows that hang together with one, itself included, ascending.

        Args:
            row: Where to begin.
            most: How many rows are of use.
            beyond: ``[rows]`` rows known to be in larger components; those that are found to be are marked.

        Returns:
            None where there are more than ``most``.
        """
        if beyond[row]:
            return None
        found, open_ = {row}, [row]
        while open_:
            current = open_.pop()
            for key in self._keys[self._starts[current] : self._starts[current] + self._counts[current]]:
                first = np.searchsorted(self._ordered, key, side="left")
                # One more than is of use suffices to tell that there are too many.
                last = min(int(np.searchsorted(self._ordered, key, side="right")), int(first) + most + 1)
                new = [other for other in self._rows[first:last].tolist() if other not in found]
                found.update(new)
                open_ += new
                if len(found) > most or beyond[new].any():
                    beyond[list(found)] = True
                    return None
        return sorted(found)
