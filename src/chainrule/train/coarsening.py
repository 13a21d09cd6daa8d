"""Numbers of every step, in memory that does not grow with the steps.

When all the rows there is room for are full, every two of them become one, and from then on a row is for
twice as many steps. A row keeps the sum and the maximum of each number. Rows begin and end where the count of
steps says, and sums are added up one step after the other: so the same bits are kept, whether the steps came
one by one or in slices, with a resume in between or without.
"""

from __future__ import annotations

from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
ROWS = 2048
"""Rows there is room for at most: a million steps in rows of 512 or 1,024."""
BYTES = 1 << 25
"""Of all rows at most, if not said otherwise: for more than 1,024 numbers there are fewer rows."""
SUM, MAXIMUM = 0, 1


class Coarsened:
    """What is kept of `width` numbers per step.

    total  steps so far
    span   steps of a row, a power of two; the last row may have got fewer so far
    """

    def __init__(self, width: int, most: int = BYTES) -> None:
        self.total, self.span, self.width = 0, 1, width
        self._room = _rows_for(width, most)
        self._rows = np.empty((self._room, 2, width))

    def append(self, numbers: Array) -> None:
        """Take the numbers (steps, width) of the next steps."""
        while len(numbers):
            row, begun = divmod(self.total, self.span)
            if begun or len(numbers) < self.span:
                part = numbers[: self.span - begun]
                self._go_on(row, part, bool(begun))
            else:
                whole = min(len(numbers) // self.span, self._room - row)
                part = numbers[: whole * self.span]
                self._fill(self._rows[row : row + whole], part)
            self.total += len(part)
            numbers = numbers[len(part) :]
            if self.total == self._room * self.span:
                self._halve()

    def _fill(self, rows: Array, part: Array) -> None:
        """Whole rows; NumPy adds faster where what it adds up lies in long arrays side by side."""
        groups = part.reshape(len(rows), self.span, self.width)
        places = np.ascontiguousarray(groups.swapaxes(0, 1)).reshape(self.span, -1)
        rows[:, SUM] = _added(places).reshape(len(rows), -1)
        rows[:, MAXIMUM] = np.maximum.reduce(places, axis=0).reshape(len(rows), -1)

    def _go_on(self, row: int, part: Array, begun: bool) -> None:
        so_far = self._rows[row : row + 1] if begun else self._rows[:0]
        self._rows[row, SUM] = _added(np.concatenate([so_far[:, SUM], part]))
        self._rows[row, MAXIMUM] = np.concatenate([so_far[:, MAXIMUM], part]).max(axis=0)

    def _halve(self) -> None:
        first, second = self._rows[0::2], self._rows[1::2]
        sums, maxima = first[:, SUM] + second[:, SUM], np.maximum(first[:, MAXIMUM], second[:, MAXIMUM])
        self._rows[: self._room // 2] = np.stack([sums, maxima], axis=1)
        self.span *= 2

    @property
    def rows(self) -> Array:
        """(rows, 2, width): sums and maxima, oldest first."""
        return self._rows[: -(-self.total // self.span)]

    @property
    def spans(self) -> Array:
        """For how many steps every row stands."""
        ends = np.minimum(np.arange(1, len(self.rows) + 1) * self.span, self.total)
        return np.diff(ends, prepend=0)

    @classmethod
    def restored(cls, rows: Array, total: int, most: int = BYTES) -> Coarsened:
        """What had these `rows` after `total` steps; `ValueError` where that cannot be."""
        made = cls(rows.shape[2], most)
        made.total = total
        while total >= made._room * made.span:
            made.span *= 2
        if made.rows.shape != rows.shape:
            raise ValueError(f"{len(rows)} rows for {total} steps, not {len(made.rows)}")
        made.rows[...] = rows
        return made


def _added(steps: Array) -> Array:
    """The sums over the first axis, one step after the other; of a lone column NumPy would add pairs."""
    lone = steps.shape[1] == 1
    total: Array = np.add.accumulate(steps, axis=0)[-1] if lone else np.add.reduce(steps, axis=0)
    return total


def _rows_for(width: int, bytes_: int) -> int:
    """A power of two, two at least."""
    most = max(2, bytes_ // max(1, 2 * 8 * width))
    return min(ROWS, 1 << most.bit_length() - 1)
