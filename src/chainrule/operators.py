"""What can be written on an array: operators, indexing, and NumPy's methods."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Generic, TypeVar

import numpy as np

from chainrule.errors import ChainruleError, DTypeError, ShapeError
from chainrule.graph import Node
from chainrule.ops import as_node, ops
from chainrule.origin import at_user_line

Made = TypeVar("Made")


class Operators(Generic[Made]):
    """Operators and methods of anything with a `node`; each gives what `_made` makes of a node."""

    __slots__ = ()

    @property
    def node(self) -> Node:
        """The graph node behind this value."""
        raise NotImplementedError

    def _made(self, node: Node) -> Made:
        raise NotImplementedError

    def _binary(self, name: str, left: Any, right: Any) -> Made:
        try:
            return self._made(getattr(ops, name)(left, right))
        except DTypeError:
            if all(isinstance(each, _OPERANDS) for each in (left, right)):
                raise
            refused: Any = NotImplemented  # let Python try the other operand, then say which types do not fit
            made: Made = refused
            return made

    def _logical(self, name: str, left: Any, right: Any) -> Made:
        booleans = all(as_node(each).dtype.kind == "b" for each in (left, right))
        return self._binary(f"logical_{name}" if booleans else f"bitwise_{name}", left, right)

    # -- arithmetic ----------------------------------------------------------------------------------
    def __add__(self, other: Any) -> Made:
        return self._binary("add", self, other)

    def __radd__(self, other: Any) -> Made:
        return self._binary("add", other, self)

    def __sub__(self, other: Any) -> Made:
        return self._binary("subtract", self, other)

    def __rsub__(self, other: Any) -> Made:
        return self._binary("subtract", other, self)

    def __mul__(self, other: Any) -> Made:
        return self._binary("multiply", self, other)

    def __rmul__(self, other: Any) -> Made:
        return self._binary("multiply", other, self)

    def __truediv__(self, other: Any) -> Made:
        return self._binary("divide", self, other)

    def __rtruediv__(self, other: Any) -> Made:
        return self._binary("divide", other, self)

    def __floordiv__(self, other: Any) -> Made:
        return self._binary("floor_divide", self, other)

    def __rfloordiv__(self, other: Any) -> Made:
        return self._binary("floor_divide", other, self)

    def __mod__(self, other: Any) -> Made:
        return self._binary("remainder", self, other)

    def __rmod__(self, other: Any) -> Made:
        return self._binary("remainder", other, self)

    def __pow__(self, other: Any) -> Made:
        return self._binary("pow", self, other)

    def __rpow__(self, other: Any) -> Made:
        return self._binary("pow", other, self)

    def __matmul__(self, other: Any) -> Made:
        return self._binary("matmul", self, other)

    def __rmatmul__(self, other: Any) -> Made:
        return self._binary("matmul", other, self)

    def __neg__(self) -> Made:
        return self._made(ops.negative(self))

    def __pos__(self) -> Made:
        return self._made(self.node)

    def __abs__(self) -> Made:
        return self._made(ops.abs(self))

    # -- bits and logic ------------------------------------------------------------------------------
    def __invert__(self) -> Made:
        boolean = self.node.dtype.kind == "b"
        return self._made(ops.logical_not(self) if boolean else ops.bitwise_invert(self))

    def __and__(self, other: Any) -> Made:
        return self._logical("and", self, other)

    def __rand__(self, other: Any) -> Made:
        return self._logical("and", other, self)

    def __or__(self, other: Any) -> Made:
        return self._logical("or", self, other)

    def __ror__(self, other: Any) -> Made:
        return self._logical("or", other, self)

    def __xor__(self, other: Any) -> Made:
        return self._logical("xor", self, other)

    def __rxor__(self, other: Any) -> Made:
        return self._logical("xor", other, self)

    def __lshift__(self, other: Any) -> Made:
        return self._binary("bitwise_left_shift", self, other)

    def __rshift__(self, other: Any) -> Made:
        return self._binary("bitwise_right_shift", self, other)

    # -- relations: elementwise, as in NumPy -----------------------------------------------------------
    def __eq__(self, other: object) -> Made:  # type: ignore[override]  # object promises a bool, arrays do not
        return self._binary("equal", self, other)

    def __ne__(self, other: object) -> Made:  # type: ignore[override]  # as above
        return self._binary("not_equal", self, other)

    def __lt__(self, other: Any) -> Made:
        return self._binary("less", self, other)

    def __le__(self, other: Any) -> Made:
        return self._binary("less_equal", self, other)

    def __gt__(self, other: Any) -> Made:
        return self._binary("greater", self, other)

    def __ge__(self, other: Any) -> Made:
        return self._binary("greater_equal", self, other)

    __hash__ = object.__hash__

    # -- elements --------------------------------------------------------------------------------------
    def __getitem__(self, index: Any) -> Made:
        return self._made(ops.getitem(self, index))

    def __setitem__(self, index: Any, value: Any) -> None:
        raise ChainruleError(
            f"a Tensor is immutable, so x[...] = ... cannot work{at_user_line()}. Write y = cr.where(mask, "
            "value, x), or build the array with NumPy before cr.asarray(...)"
        )

    def __len__(self) -> int:
        if not self.node.shape:
            raise ShapeError(f"a 0-d Tensor has no length{at_user_line()}")
        return self.node.shape[0]

    def __iter__(self) -> Iterator[Made]:
        if not self.node.shape:
            raise ShapeError(f"a 0-d Tensor cannot be iterated over{at_user_line()}; x.item() is its number")
        return (self[index] for index in range(self.node.shape[0]))

    # -- NumPy's methods -------------------------------------------------------------------------------
    @property
    def T(self) -> Made:  # noqa: N802 - NumPy's name
        """The transpose: all axes in reverse order."""
        return self._made(ops.permute_dims(self, tuple(reversed(range(self.node.ndim)))))

    @property
    def mT(self) -> Made:  # noqa: N802 - the Array API's name
        """The matrix transpose: the last two axes exchanged."""
        return self._made(ops.matrix_transpose(self))

    def sum(self, axis: Any = None, keepdims: bool = False) -> Made:
        return self._made(ops.sum(self, axis=axis, keepdims=keepdims))

    def prod(self, axis: Any = None, keepdims: bool = False) -> Made:
        return self._made(ops.prod(self, axis=axis, keepdims=keepdims))

    def mean(self, axis: Any = None, keepdims: bool = False) -> Made:
        return self._made(ops.mean(self, axis=axis, keepdims=keepdims))

    def var(self, axis: Any = None, correction: float = 0.0, keepdims: bool = False) -> Made:
        return self._made(ops.var(self, axis=axis, correction=correction, keepdims=keepdims))

    def std(self, axis: Any = None, correction: float = 0.0, keepdims: bool = False) -> Made:
        return self._made(ops.std(self, axis=axis, correction=correction, keepdims=keepdims))

    def max(self, axis: Any = None, keepdims: bool = False) -> Made:
        return self._made(ops.max(self, axis=axis, keepdims=keepdims))

    def min(self, axis: Any = None, keepdims: bool = False) -> Made:
        return self._made(ops.min(self, axis=axis, keepdims=keepdims))

    def any(self, axis: Any = None, keepdims: bool = False) -> Made:
        return self._made(ops.any(self, axis=axis, keepdims=keepdims))

    def all(self, axis: Any = None, keepdims: bool = False) -> Made:
        return self._made(ops.all(self, axis=axis, keepdims=keepdims))

    def argmax(self, axis: int | None = None, keepdims: bool = False) -> Made:
        return self._made(ops.argmax(self, axis=axis, keepdims=keepdims))

    def argmin(self, axis: int | None = None, keepdims: bool = False) -> Made:
        return self._made(ops.argmin(self, axis=axis, keepdims=keepdims))

    def reshape(self, *shape: int | Sequence[int]) -> Made:
        return self._made(ops.reshape(self, shape[0] if len(shape) == 1 else shape))

    def flatten(self) -> Made:
        return self._made(ops.reshape(self, (-1,)))

    def squeeze(self, axis: Any = None) -> Made:
        return self._made(ops.squeeze(self, axis=axis))

    def transpose(self, *axes: Any) -> Made:
        given = axes[0] if len(axes) == 1 and not isinstance(axes[0], int) else axes
        order = tuple(given) if given else tuple(reversed(range(self.node.ndim)))
        return self._made(ops.permute_dims(self, order))

    def clip(self, min: Any = None, max: Any = None) -> Made:
        return self._made(ops.clip(self, min, max))

    def round(self) -> Made:
        return self._made(ops.round(self))

    def astype(self, dtype: Any) -> Made:
        return self._made(ops.astype(self, np.dtype(dtype)))


_OPERANDS = (Operators, Node, bool, int, float, list, tuple, np.ndarray, np.generic)
