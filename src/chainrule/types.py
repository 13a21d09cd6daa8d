"""What a value is before it is known: its shape and its dtype.

Shapes are static. dtypes are NumPy's float32, float64, the integers and bool; promotion is NumPy's too,
except that Python scalars are weak (they take the dtype of the arrays they meet) and that two different
floating dtypes never mix silently: that is almost always a bug which costs either speed or accuracy.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from chainrule.errors import DTypeError, ShapeError

Shape = tuple[int, ...]
FLOAT32 = np.dtype(np.float32)


class Type(NamedTuple):
    """Shape and dtype of one array."""

    shape: Shape
    dtype: np.dtype[Any]

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def size(self) -> int:
        """Number of elements."""
        count = 1
        for extent in self.shape:
            count *= extent
        return count

    @property
    def floating(self) -> bool:
        """True where a derivative can flow: float32 and float64."""
        return self.dtype.kind == "f"

    def __str__(self) -> str:
        return f"{self.dtype}[{','.join(map(str, self.shape))}]"


def type_of(value: Any) -> Type:
    """The type of a NumPy array (or anything with ``shape`` and ``dtype``)."""
    return Type(tuple(value.shape), np.dtype(value.dtype))


def broadcast_shapes(*shapes: Shape) -> Shape:
    """The shape that NumPy broadcasting gives `shapes`; raises `ShapeError` where there is none."""
    if len(shapes) == 1:
        return shapes[0]
    if len(shapes) == 2:
        left, right = shapes
        if left == right or not right:
            return left
        if not left:
            return right
    try:
        return np.broadcast_shapes(*shapes)
    except ValueError:
        listed = " and ".join(map(str, shapes))
        raise ShapeError(
            f"shapes {listed} do not broadcast: counted from the right, two extents must be equal or one "
            "must be 1"
        ) from None


def promote_dtypes(
    dtypes: Sequence[np.dtype[Any]], scalars: Sequence[bool | int | float] = ()
) -> np.dtype[Any]:
    """The dtype in which arrays of `dtypes` and weak Python `scalars` meet.

    NumPy's rules; raises `DTypeError` where float32 meets float64.
    """
    first = dtypes[0]
    if all(dtype is first or dtype == first for dtype in dtypes) and (first.kind == "f" or not scalars):
        return first  # what nearly every call comes to, without asking NumPy
    floating = {dtype for dtype in dtypes if dtype.kind == "f"}
    if len(floating) > 1:
        raise DTypeError(
            "float32 meets float64: mixed floating dtypes are never promoted silently. Convert one side "
            "with .astype(...), or the whole model with model.float() or model.double()"
        )
    return np.result_type(*dtypes, *scalars)


def normalise_axis(axis: int, ndim: int) -> int:
    """`axis` counted from the front; raises `ShapeError` when it is out of range."""
    if not -ndim <= axis < ndim:
        raise ShapeError(f"axis {axis} is out of range for an array of {ndim} dimensions")
    return axis % ndim


def normalise_axes(axis: int | Sequence[int] | None, ndim: int) -> tuple[int, ...]:
    """`axis` as a sorted tuple of front-counted axes; None means all of them."""
    if axis is None:
        return tuple(range(ndim))
    listed = (axis,) if isinstance(axis, int | np.integer) else tuple(axis)
    axes = sorted(normalise_axis(int(one), ndim) for one in listed)
    if len(set(axes)) != len(axes):
        raise ShapeError(f"axis {tuple(listed)} names one axis twice")
    return tuple(axes)
