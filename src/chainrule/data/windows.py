"""Windows over a stream: the examples of a model that predicts what comes next."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from chainrule.errors import DataError


@dataclass(frozen=True, eq=False)
class Windows:
    """Every stretch of `length` entries of a stream, each with the same stretch one entry later as its
    target.

    `stream` has shape (n,) or (n, features). Window i is stream[i : i + length], its target
    stream[i + 1 : i + length + 1]; there are n - length of them, and none is copied before it is asked for.

    >>> windows = Windows(np.arange(6), length=4)
    >>> inputs, targets = windows.batch([0, 1])
    >>> inputs.tolist(), targets.tolist()
    ([[0, 1, 2, 3], [1, 2, 3, 4]], [[1, 2, 3, 4], [2, 3, 4, 5]])
    """

    stream: npt.NDArray[Any]
    length: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "stream", np.asarray(self.stream))
        if self.stream.ndim == 0 or not 1 <= self.length < len(self.stream):
            shape = self.stream.shape
            raise DataError(
                f"Windows of length {self.length} do not fit a stream of shape {shape}: a window and the "
                f"entry after it must lie within the stream's first axis."
            )

    def __len__(self) -> int:
        return len(self.stream) - self.length

    def batch(self, starts: npt.ArrayLike) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
        """Inputs and targets of these windows, each of shape (len(starts), length, …)."""
        places = np.asarray(starts, dtype=np.int64)[:, None] + np.arange(self.length)
        return self.stream[places], self.stream[places + 1]

    def arrays(self) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
        """All inputs and all targets as read-only views of the stream, (windows, length, …)."""
        shape = (len(self), self.length, *self.stream.shape[1:])
        strides = (self.stream.strides[0], *self.stream.strides)

        def seen(start: int) -> npt.NDArray[Any]:
            return np.lib.stride_tricks.as_strided(self.stream[start:], shape, strides, writeable=False)

        return seen(0), seen(1)
