"""Counter-based random bits: Threefry-2x32 with 20 rounds.

Bits are a pure function of a key and a counter, so every backend gives the same ones in any order, and
recomputation repeats them. (Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as easy as 1, 2, 3",
SC 2011.)
"""

from __future__ import annotations

from typing import Any

import numpy as np

from chainrule.errors import ShapeError
from chainrule.primitive import Primitive, Sample
from chainrule.types import Shape, Type

ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
PARITY = np.uint32(0x1BD11BDA)


def threefry(xp: Any, key_0: Any, key_1: Any, word_0: Any, word_1: Any) -> tuple[Any, Any]:
    """Two 32-bit words encrypted under a 64-bit key; all uint32, broadcast against each other."""
    keys = (key_0, key_1, key_0 ^ key_1 ^ PARITY)
    x, y = word_0 + keys[0], word_1 + keys[1]
    for group in range(5):
        for rotation in ROTATIONS[group % 2]:
            x = x + y
            y = (y << np.uint32(rotation)) | (y >> np.uint32(32 - rotation))
            y = y ^ x
        x = x + keys[(group + 1) % 3]
        y = y + (keys[(group + 2) % 3] + np.uint32(group + 1))
    return x, y


# Known answers: a vector of Random123 (through `fold_in`, whose counter is (0, number)), JAX's threefry_2x32.
_FIRST_VECTOR = np.array([0x6B200159, 0x99BA4EFE], np.uint32)
_BITS_OF_0_7 = np.array([276534068, 861967409, 1905761346, 1641862660, 2900896126], np.uint32)
_BITS_OF_3_9 = np.array(
    [[3013943874, 3724538177, 490816266], [3077744205, 1419986470, 2835802116]], np.uint32
)


def _check_key(key: Type) -> None:
    if key.shape != (2,) or key.dtype != np.uint32:
        raise ShapeError(
            f"a random key is a uint32 array of shape (2,), made by cr.random.key(seed), not {key}"
        )


def _bits_type(key: Type, shape: Shape) -> Type:
    _check_key(key)
    return Type(shape, np.dtype(np.uint32))


def _bits(xp: Any, key: Any, shape: Shape) -> Any:
    """Counters 0 … n-1; the second word of each block fills the second half."""
    size = int(np.prod(shape, dtype=np.int64))
    half = (size + 1) // 2
    with np.errstate(over="ignore"):  # arithmetic modulo 2**32 is the point
        first, second = threefry(
            xp,
            key[0:1],
            key[1:2],
            xp.arange(half, dtype=np.uint32),
            xp.arange(half, 2 * half, dtype=np.uint32),
        )
    return xp.reshape(xp.concatenate([first, second])[:size], shape)


BITS = Primitive(
    "random_bits",
    "Uniformly random uint32 words of a shape, a pure function of the key.",
    _bits_type,
    _bits,
    None,
    (
        Sample((np.array([0, 7], np.uint32),), {"shape": (5,)}, value=_BITS_OF_0_7),
        Sample((np.array([3, 9], np.uint32),), {"shape": (2, 3)}, value=_BITS_OF_3_9),
        Sample((np.array([3, 9], np.uint32),), {"shape": (0,)}),
    ),
    analytic=False,
    feeds=lambda place, key, shape: [[(0,), (1,)]],
)


def _fold_type(key: Type, data: Type) -> Type:
    _check_key(key)
    return key


def _fold(xp: Any, key: Any, data: Any) -> Any:
    word = xp.reshape(data, (1,)).astype(np.uint32)
    with np.errstate(over="ignore"):
        first, second = threefry(xp, key[0:1], key[1:2], xp.zeros_like(word), word)
    return xp.concatenate([first, second])


FOLD: Primitive = Primitive(
    "fold_in",
    "A new key from a key and a number.",
    _fold_type,
    _fold,
    None,
    (
        Sample((np.array([0, 0], np.uint32), np.array(0, np.uint32)), value=_FIRST_VECTOR),
        Sample(
            (np.array([0, 7], np.uint32), np.array(5, np.uint32)), value=np.array([3583082021, 1947592014])
        ),
    ),
    lambda ops, key, data: ops.apply(
        FOLD, [ops.node(key), ops.node(np.uint32(data & 0xFFFFFFFF) if isinstance(data, int) else data)]
    ),
    analytic=False,
    feeds=lambda place, key, data: [[(0,), (1,)], [()]],
)

RECORDS: tuple[Primitive, ...] = (BITS, FOLD)
