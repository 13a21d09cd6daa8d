"""Independent oracles for derivatives, in plain NumPy.

Central differences with step h = cbrt(eps) err by h**2/6 * |f'''| + eps * |f| / h, which is below 1e-9 for
the smooth functions of size 1 that the tests use; they compare with 1e-7, two orders above it.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

STEP = float(np.cbrt(np.finfo(np.float64).eps))
CLOSE = {"rtol": 1e-7, "atol": 1e-7}
Array = np.ndarray[Any, Any]


def difference(function: Callable[[Array], Any], x: Array) -> Array:
    """d function / d x by central differences: shape ``output.shape + x.shape``."""
    columns = []
    for index in np.ndindex(*x.shape):
        step = np.zeros(x.shape)
        step[index] = STEP
        above, below = np.asarray(function(x + step)), np.asarray(function(x - step))
        columns.append((above - below) / (2 * STEP))
    return np.stack(columns, axis=-1).reshape(*columns[0].shape, *x.shape)


def complex_step(function: Callable[[Array], Any], x: Array) -> Array:
    """The gradient of an analytic scalar function, to rounding: Im f(x + ih) / h (Squire, Trapp 1998)."""
    tiny = 1e-200
    gradient = np.zeros(x.shape)
    for index in np.ndindex(*x.shape):
        moved = x.astype(complex)
        moved[index] += 1j * tiny
        gradient[index] = np.asarray(function(moved)).imag / tiny
    return gradient
