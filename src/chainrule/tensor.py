"""Tensor: the value users hold, and Parameter and Buffer: the only cells whose value can change."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Protocol
from weakref import ref

import numpy as np

from chainrule.errors import ChainruleError, DTypeError, GradientError, ShapeError
from chainrule.graph import ABSTRACT, CONSTANT, OWNED, PLAIN, TRACKED, Array, Node, constant
from chainrule.reverse import backward
from chainrule.ops import _at_user_line, as_array, as_node, escaped, ops
from chainrule.types import Type


class Tensor:
    """An immutable array that remembers how it was computed.

    Operators, indexing and functions follow NumPy. `backward()` walks the chain rule from a scalar to
    every Tensor it was computed from and leaves the derivative in their `.grad`.

    >>> import chainrule as cr
    >>> x = cr.asarray([1.0, 2.0])
    >>> loss = cr.sum(x * x)
    >>> loss.backward()
    >>> x.grad
    Tensor([2., 4.], dtype=float32)
    """

    __slots__ = ("__weakref__", "_node", "grad")
    __array_priority__ = 1000  # so that ndarray + Tensor comes to Tensor.__radd__

    def __init__(self, node: Node) -> None:
        self._node = node
        self.grad: Tensor | None = None
        node.grad_owner = ref(self)

    @property
    def node(self) -> Node:
        """The graph node behind this value."""
        return self._node

    # -- facts ---------------------------------------------------------------------------------------
    @property
    def shape(self) -> tuple[int, ...]:
        return self.node.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.node.dtype

    @property
    def ndim(self) -> int:
        return self.node.ndim

    @property
    def size(self) -> int:
        return self.node.size

    @property
    def layer(self) -> str:
        """Path of the layer that computed this value, "" outside of any."""
        return self.node.layer

    @property
    def T(self) -> Tensor:  # noqa: N802 - NumPy's name
        """The transpose: all axes in reverse order."""
        return Tensor(ops.permute_dims(self, tuple(reversed(range(self.ndim)))))

    @property
    def mT(self) -> Tensor:  # noqa: N802 - the Array API's name
        """The matrix transpose: the last two axes exchanged."""
        return Tensor(ops.matrix_transpose(self))

    # -- out to Python and NumPy ---------------------------------------------------------------------
    def numpy(self) -> Array:
        """The value as a read-only NumPy array (no copy)."""
        value = self.node.value
        if value is None:
            raise escaped("numpy()")
        return value  # type: ignore[no-any-return]

    def item(self) -> Any:
        """The value of a one-element Tensor as a Python number."""
        if self.size != 1:
            raise ShapeError(
                f"item() needs a Tensor of one element, this one has shape {self.shape}{_at_user_line()}"
            )
        return self.numpy().item()

    def tolist(self) -> Any:
        return self.numpy().tolist()

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        return np.array(self.numpy(), dtype=dtype, copy=copy)

    def __dlpack__(self, **options: Any) -> Any:
        return np.array(self.numpy()).__dlpack__(**options)  # a copy: consumers may write

    def __dlpack_device__(self) -> Any:
        return self.numpy().__dlpack_device__()

    def __array_namespace__(self, api_version: str | None = None) -> Any:
        import chainrule

        return chainrule

    def __float__(self) -> float:
        return float(self.item())

    def __int__(self) -> int:
        return int(self.item())

    def __index__(self) -> int:
        if self.dtype.kind not in "iu":
            raise DTypeError(f"a Tensor of {self.dtype} cannot be used as an index{_at_user_line()}")
        return int(self.item())

    def __bool__(self) -> bool:
        if self.node.value is None:
            raise escaped("the truth of a Tensor")
        if self.size != 1:
            raise ShapeError(
                f"the truth of a Tensor of shape {self.shape} is ambiguous{_at_user_line()}: use cr.any(...) or cr.all(...)"
            )
        return bool(self.item())

    def __len__(self) -> int:
        if not self.shape:
            raise ShapeError("a 0-d Tensor has no length")
        return self.shape[0]

    def __iter__(self) -> Iterator[Tensor]:
        if not self.shape:
            raise ShapeError("a 0-d Tensor cannot be iterated")
        return (self[index] for index in range(self.shape[0]))

    def __repr__(self) -> str:
        node = self.node
        head = type(self).__name__
        if node.value is None:
            return f"{head}({node.type}, traced: no value yet)"
        body = np.array2string(node.value, separator=", ", prefix=head + "(", threshold=200)
        return f"{head}({body}, dtype={node.dtype})"

    def __format__(self, spec: str) -> str:
        return format(self.item(), spec) if spec else str(self)

    __hash__ = object.__hash__

    # -- differentiation -----------------------------------------------------------------------------
    def backward(self, gradient: Any = None, *, retain_graph: bool = False) -> None:
        """Leave d(self)/d(x) in ``x.grad`` of every Tensor x this one was computed from.

        `self` must be a floating scalar, unless `gradient` (same shape) is given. Gradients add up over
        calls with different losses; a second call on the same loss raises, unless `retain_graph` is set.
        """
        node = self.node
        _check_backward(node, gradient is not None)
        if node.spent and not retain_graph:
            raise GradientError(
                f"backward() was already called on this loss{_at_user_line()}; calling it again would add every "
                "gradient a second time. Compute the loss anew, or pass retain_graph=True if adding is what you want"
            )
        node.spent = True
        seed = ops.full(node.type, 1) if gradient is None else as_node(gradient)
        if seed.type != node.type:
            raise ShapeError(
                f"gradient has type {seed.type}, this Tensor {node.type}{_at_user_line()}: they must agree"
            )
        for owner, cotangent in backward(node, seed):
            total = cotangent if owner.grad is None else ops.add(owner.grad, cotangent)
            owner.grad = Tensor(constant(total.value))

    def detach(self) -> Tensor:
        """The same value without its history."""
        return Tensor(ops.stop_gradient(self))

    # -- operators -----------------------------------------------------------------------------------
    def __add__(self, other: Any) -> Tensor:
        return _binary("add", self, other)

    def __radd__(self, other: Any) -> Tensor:
        return _binary("add", other, self)

    def __sub__(self, other: Any) -> Tensor:
        return _binary("subtract", self, other)

    def __rsub__(self, other: Any) -> Tensor:
        return _binary("subtract", other, self)

    def __mul__(self, other: Any) -> Tensor:
        return _binary("multiply", self, other)

    def __rmul__(self, other: Any) -> Tensor:
        return _binary("multiply", other, self)

    def __truediv__(self, other: Any) -> Tensor:
        return _binary("divide", self, other)

    def __rtruediv__(self, other: Any) -> Tensor:
        return _binary("divide", other, self)

    def __floordiv__(self, other: Any) -> Tensor:
        return _binary("floor_divide", self, other)

    def __rfloordiv__(self, other: Any) -> Tensor:
        return _binary("floor_divide", other, self)

    def __mod__(self, other: Any) -> Tensor:
        return _binary("remainder", self, other)

    def __rmod__(self, other: Any) -> Tensor:
        return _binary("remainder", other, self)

    def __pow__(self, other: Any) -> Tensor:
        return _binary("pow", self, other)

    def __rpow__(self, other: Any) -> Tensor:
        return _binary("pow", other, self)

    def __matmul__(self, other: Any) -> Tensor:
        return _binary("matmul", self, other)

    def __rmatmul__(self, other: Any) -> Tensor:
        return _binary("matmul", other, self)

    def __neg__(self) -> Tensor:
        return Tensor(ops.negative(self))

    def __pos__(self) -> Tensor:
        return self

    def __abs__(self) -> Tensor:
        return Tensor(ops.abs(self))

    def __invert__(self) -> Tensor:
        return Tensor(ops.logical_not(self) if self.dtype.kind == "b" else ops.bitwise_invert(self))

    def __and__(self, other: Any) -> Tensor:
        return _logical("and", self, other)

    def __rand__(self, other: Any) -> Tensor:
        return _logical("and", other, self)

    def __or__(self, other: Any) -> Tensor:
        return _logical("or", self, other)

    def __ror__(self, other: Any) -> Tensor:
        return _logical("or", other, self)

    def __xor__(self, other: Any) -> Tensor:
        return _logical("xor", self, other)

    def __rxor__(self, other: Any) -> Tensor:
        return _logical("xor", other, self)

    def __eq__(self, other: object) -> Tensor:  # type: ignore[override]  # elementwise, as in NumPy
        return _binary("equal", self, other)

    def __ne__(self, other: object) -> Tensor:  # type: ignore[override]  # elementwise, as in NumPy
        return _binary("not_equal", self, other)

    def __lt__(self, other: Any) -> Tensor:
        return _binary("less", self, other)

    def __le__(self, other: Any) -> Tensor:
        return _binary("less_equal", self, other)

    def __gt__(self, other: Any) -> Tensor:
        return _binary("greater", self, other)

    def __ge__(self, other: Any) -> Tensor:
        return _binary("greater_equal", self, other)

    def __getitem__(self, index: Any) -> Tensor:
        return Tensor(ops.getitem(self, index))

    def __setitem__(self, index: Any, value: Any) -> None:
        raise ChainruleError(
            f"a Tensor is immutable, so x[...] = ... cannot work{_at_user_line()}. Write y = cr.where(mask, value, x), "
            "or build the array with NumPy before cr.asarray(...)"
        )

    # -- functions as methods ------------------------------------------------------------------------
    def sum(self, axis: Any = None, keepdims: bool = False) -> Tensor:
        return Tensor(ops.sum(self, axis=axis, keepdims=keepdims))

    def mean(self, axis: Any = None, keepdims: bool = False) -> Tensor:
        return Tensor(ops.mean(self, axis=axis, keepdims=keepdims))

    def max(self, axis: Any = None, keepdims: bool = False) -> Tensor:
        return Tensor(ops.max(self, axis=axis, keepdims=keepdims))

    def min(self, axis: Any = None, keepdims: bool = False) -> Tensor:
        return Tensor(ops.min(self, axis=axis, keepdims=keepdims))

    def argmax(self, axis: int | None = None, keepdims: bool = False) -> Tensor:
        return Tensor(ops.argmax(self, axis=axis, keepdims=keepdims))

    def reshape(self, *shape: Any) -> Tensor:
        given = shape[0] if len(shape) == 1 and not isinstance(shape[0], int) else shape
        return Tensor(ops.reshape(self, tuple(given)))

    def flatten(self) -> Tensor:
        return Tensor(ops.reshape(self, (-1,)))

    def astype(self, dtype: Any) -> Tensor:
        return Tensor(ops.astype(self, np.dtype(dtype)))


def _binary(name: str, left: Any, right: Any) -> Tensor:
    try:
        return Tensor(getattr(ops, name)(left, right))
    except DTypeError:
        if _operand_like(left) and _operand_like(right):
            raise
        return NotImplemented  # let Python try the other operand, then say which types do not fit


def _operand_like(value: Any) -> bool:
    return isinstance(value, Tensor | Node | bool | int | float | list | tuple | np.ndarray | np.generic)


def _logical(name: str, left: Any, right: Any) -> Tensor:
    booleans = all(as_node(each).dtype.kind == "b" for each in (left, right))
    return _binary(f"logical_{name}" if booleans else f"bitwise_{name}", left, right)


def _check_backward(node: Node, seeded: bool) -> None:
    if not node.floating:
        raise GradientError(
            f"backward() on a Tensor of {node.dtype}{_at_user_line()}: integers and booleans have no derivative. "
            "Compute the loss in floating point (x.astype('float32'))"
        )
    if node.value is None:
        raise escaped("backward()")
    if node.shape != () and not seeded:
        raise GradientError(
            f"backward() on a Tensor of shape {node.shape}{_at_user_line()}: only a scalar has one gradient. "
            "Reduce it first, for example cr.mean(loss).backward(), or pass gradient= of the same shape"
        )
    if node.status == PLAIN:
        raise GradientError(
            f"backward() on a plain value{_at_user_line()}: it was computed from the result of a finished cr.grad(...) "
            "or cr.vjp(...), which carries no history. Differentiate the whole computation with cr.grad, or start a "
            "new history with cr.asarray(value)"
        )
    if node.status == CONSTANT:
        raise GradientError(
            f"backward() on a constant{_at_user_line()}: nothing it was computed from keeps history (it was detached, "
            "made inside cr.no_grad(), or made from NumPy arrays alone). Wrap the inputs with cr.asarray(...)"
        )


class Frame(Protocol):
    """Where cells are read and written while a function is transformed or traced."""

    def read(self, cell: Cell) -> Node | None: ...

    def write(self, cell: Cell, node: Node) -> bool: ...


_frames: ContextVar[tuple[Frame, ...]] = ContextVar("chainrule_frames", default=())
traces: ContextVar[tuple[Any, ...]] = ContextVar("chainrule_traces", default=())
"""The traces that are running now, outermost first."""


@contextmanager
def frame(entered: Frame) -> Iterator[None]:
    """Let `entered` answer for the cells it knows inside the block."""
    token = _frames.set((entered, *_frames.get()))
    try:
        yield
    finally:
        _frames.reset(token)


class Cell(Tensor):
    """A Tensor whose value can be replaced: the only mutable thing in the engine."""

    __slots__ = ("name",)

    def __init__(self, value: Any, dtype: Any = None) -> None:
        if isinstance(value, Tensor):
            value = value.numpy()
        super().__init__(constant(as_array(value, dtype)))
        self.name = ""
        self._own(self._node)

    def _own(self, node: Node) -> None:
        node.cell = self
        node.status = self._status()
        self._node = node

    def _status(self) -> int:
        return CONSTANT

    @property
    def node(self) -> Node:
        for each in _frames.get():
            node = each.read(self)
            if node is not None:
                return node
        return self._node

    @property
    def type(self) -> Type:
        return self._node.type  # type: ignore[no-any-return]

    def assign(self, value: Any) -> None:
        """Replace the value by one of the same shape; the dtype stays."""
        node = as_node(value)
        if node.shape != self._node.shape:
            raise ShapeError(
                f"{self.describe()} has shape {self._node.shape}; cannot assign shape {node.shape}{_at_user_line()}"
            )
        node = ops.stop_gradient(
            node if node.dtype == self._node.dtype else ops.astype(node, self._node.dtype)
        )
        for each in _frames.get():
            if each.write(self, node):
                return
        if node.status == ABSTRACT:
            raise escaped(f"assigning to {self.describe()}")
        self._own(constant(node.value))

    def cast(self, dtype: Any) -> None:
        """Change the dtype in place (floating cells only); the gradient is dropped."""
        if self._node.dtype.kind == "f":
            self._own(constant(as_array(self._node.value, dtype)))
            self.grad = None

    def describe(self) -> str:
        return f"{type(self).__name__} {self.name!r}" if self.name else type(self).__name__

    @property
    def data(self) -> Tensor:
        """The value without history; assigning replaces the value, as in PyTorch."""
        return self.detach()

    @data.setter
    def data(self, value: Any) -> None:
        self.assign(value)


class Buffer(Cell):
    """A cell that is state but not trained, such as BatchNorm's running mean."""

    __slots__ = ()


class Parameter(Cell):
    """A cell that is trained.

    >>> import chainrule as cr
    >>> w = cr.nn.Parameter([1.0, 2.0])
    >>> cr.sum(w * w).backward()
    >>> w.assign(w - 0.1 * w.grad)
    >>> w.tolist()
    [0.800000011920929, 1.600000023841858]
    """

    __slots__ = ()

    def _status(self) -> int:
        return OWNED if self._node.floating else CONSTANT

    def _in_place(self, other: Any) -> Tensor:
        raise ChainruleError(
            f"{self.describe()} cannot be changed with an in-place operator{_at_user_line()}: that would rebind the name "
            "and leave the model as it was. Write p.assign(p - rate * p.grad), or use an optimizer"
        )

    __iadd__ = __isub__ = __imul__ = __itruediv__ = _in_place


def asarray(value: Any, dtype: Any = None) -> Tensor:
    """A Tensor of `value`: NumPy dtypes are kept, Python floats become float32.

    The value is copied, so later changes to a NumPy array do not reach the Tensor.

    >>> import chainrule as cr
    >>> cr.asarray([1.0, 2.0]).dtype, cr.asarray([1, 2]).dtype
    (dtype('float32'), dtype('int64'))
    """
    if isinstance(value, Tensor):
        if dtype is not None and np.dtype(dtype) != value.dtype:
            return value.astype(dtype)
        if value.node.status != PLAIN:
            return value
        value = value.numpy()
    if isinstance(value, list | tuple) and any(isinstance(each, Tensor) for each in value):
        stacked = Tensor(ops.stack([each if isinstance(each, Tensor) else asarray(each) for each in value]))
        return stacked if dtype is None else stacked.astype(dtype)
    node = constant(as_array(value, dtype))
    node.status = TRACKED if node.floating else CONSTANT
    return Tensor(node)


def wrap(result: Any) -> Any:
    """Nodes to Tensors, inside tuples and lists too."""
    if isinstance(result, Node):
        return Tensor(result)
    if isinstance(result, tuple | list):
        return type(result)(wrap(each) for each in result)
    return result
