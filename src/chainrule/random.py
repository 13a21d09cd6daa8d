"""Random numbers as pure functions of a key.

A key says which numbers: ``key(seed)`` starts, ``fold_in(key, n)`` and ``split`` derive new keys. Layers that
need randomness ask `site_key`, which folds the step and the path of the place into the seed, so that the
numbers never depend on the order of calls.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import numpy as np

from chainrule.errors import DTypeError, TraceError
from chainrule.ops import ops
from chainrule.origin import at_user_line, layer_path
from chainrule.tensor import Buffer, Tensor, asarray
from chainrule.trace import inside_program, traces


def key(seed: int) -> Tensor:
    """The key of an integer seed.

    >>> import chainrule as cr
    >>> cr.random.key(0).tolist()
    [0, 0]
    """
    return asarray(np.array([(seed >> 32) & 0xFFFFFFFF, seed & 0xFFFFFFFF], np.uint32))


def fold_in(key: Any, data: Any) -> Tensor:
    """A new key from `key` and an integer (a Python int or an integer Tensor)."""
    return Tensor(ops.fold_in(key, data))


def split(key: Any, count: int = 2) -> list[Tensor]:
    """`count` independent keys."""
    return [fold_in(key, k) for k in range(count)]


def bits(key: Any, shape: tuple[int, ...] = ()) -> Tensor:
    """Uniformly random uint32 words."""
    return Tensor(ops.random_bits(key, shape=tuple(shape)))


def uniform(
    key: Any, shape: tuple[int, ...] = (), low: float = 0.0, high: float = 1.0, dtype: Any = np.float32
) -> Tensor:
    """Uniform numbers in [low, high): 24 random bits for float32, 53 for float64.

    >>> import chainrule as cr
    >>> 0.0 <= cr.random.uniform(cr.random.key(0)).item() < 1.0
    True
    """
    wanted = np.dtype(dtype)
    if wanted == np.float32:
        unit = ops.multiply(ops.astype(ops.bitwise_right_shift(bits(key, shape), 8), wanted), 2.0**-24)
    elif wanted == np.float64:
        upper = ops.astype(ops.bitwise_right_shift(bits(fold_in(key, 0), shape), 5), wanted)
        lower = ops.astype(ops.bitwise_right_shift(bits(fold_in(key, 1), shape), 6), wanted)
        unit = ops.multiply(ops.add(ops.multiply(upper, 2.0**26), lower), 2.0**-53)
    else:
        raise DTypeError(f"uniform gives float32 or float64, not {wanted}")
    return Tensor(unit if (low, high) == (0.0, 1.0) else ops.add(ops.multiply(unit, high - low), low))


def normal(key: Any, shape: tuple[int, ...] = (), dtype: Any = np.float32) -> Tensor:
    """Standard normal numbers (Box and Muller, 1958)."""
    radius = uniform(fold_in(key, 0), shape, dtype=dtype)
    angle = uniform(fold_in(key, 1), shape, dtype=dtype)
    distance = ops.sqrt(ops.multiply(ops.log1p(ops.negative(radius)), -2.0))
    return Tensor(ops.multiply(distance, ops.cos(ops.multiply(angle, 2 * math.pi))))


def bernoulli(key: Any, probability: float, shape: tuple[int, ...] = ()) -> Tensor:
    """True with the given probability."""
    threshold = round(probability * 2**32)
    if threshold >= 2**32:
        return asarray(np.ones(shape, bool))
    return Tensor(ops.less(bits(key, shape), np.uint32(threshold)))


def permutation(key: Any, count: int) -> Tensor:
    """0 … count - 1 in random order."""
    return Tensor(ops.argsort(bits(key, (count,))))


# -- keys of places ----------------------------------------------------------------------------------------
class Stream:
    """The randomness of one step: a key, and how often each place has drawn from it."""

    def __init__(self, key: Any) -> None:
        self.key = key
        self._drawn: dict[str, int] = {}
        self._around = traces.get()

    def site_key(self, path: str) -> Tensor:
        """The key for the next draw of the place `path`."""
        if inside_program(since=self._around):
            raise TraceError(
                f"random numbers are drawn inside a compiled function{at_user_line()} from a stream opened "
                "outside of it: they would be the same in every call. Pass the key as an argument, and open "
                "cr.random.stream(key) inside the function"
            )
        count = self._drawn.get(path, 0)
        self._drawn[path] = count + 1
        return fold_in(fold_in(self.key, zlib.crc32(path.encode())), count)


_stream: ContextVar[Stream | None] = ContextVar("chainrule_random_stream", default=None)
_global_key = Buffer(np.zeros(2, np.uint32))
_global_key.name = "random.key"


def seed(value: int) -> None:
    """Start the stream that layers draw from outside of a Trainer anew."""
    _global_key.assign(key(value))


@contextmanager
def stream(key: Any) -> Iterator[None]:
    """Inside the block, layers draw from `key`, each place its own numbers."""
    token = _stream.set(Stream(key))
    try:
        yield
    finally:
        _stream.reset(token)


def site_key() -> Tensor:
    """The key for the place (layer path) that asks now."""
    current = _stream.get()
    if current is not None:
        return current.site_key(layer_path())
    _global_key.assign(fold_in(_global_key, 1))
    return fold_in(_global_key, zlib.crc32(layer_path().encode()))
