"""Tensor: the value users hold, and Parameter and Buffer: the only cells whose value can change."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NoReturn, Protocol, Self
from weakref import ref

import numpy as np

from chainrule.errors import ChainruleError, DTypeError, GradientError, ShapeError
from chainrule.graph import ABSTRACT, CONSTANT, KEEPS_HISTORY, OWNED, PLAIN, TRACKED, Array, Node, constant
from chainrule.interop import missing, numpy_function, numpy_ufunc
from chainrule.operators import Operators
from chainrule.ops import as_array, as_node, escaped, is_weak, ops
from chainrule.origin import at_user_line
from chainrule.representation import html_of
from chainrule.reverse import backward, check_backward
from chainrule.types import Type


class Tensor(Operators["Tensor"]):
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
    _node: Node
    grad: Tensor | None

    def __new__(cls, node: Node) -> Tensor:
        """The one Tensor of `node`: as long as it lives, wrapping the node again gives it back."""
        if not isinstance(node, Node):
            raise DTypeError(f"cr.Tensor is made from a graph node{at_user_line()}: write cr.asarray(...)")
        alive: Tensor | None = None if node.grad_owner is None else node.grad_owner()
        if alive is not None:
            return alive
        tensor = object.__new__(cls)
        tensor._node = node
        tensor.grad = None
        node.grad_owner = ref(tensor)
        return tensor

    @property
    def node(self) -> Node:
        """The graph node behind this value."""
        return self._node

    def _made(self, node: Node) -> Tensor:
        return Tensor(node)

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
        """Number of elements."""
        return self.node.size

    @property
    def layer(self) -> str:
        """Path of the layer that computed this value, "" outside of any."""
        return self.node.layer

    @property
    def requires_grad(self) -> bool:
        """True where a derivative is kept track of; every floating Tensor made by `asarray` does."""
        return self.node.floating and self.node.status in (*KEEPS_HISTORY, ABSTRACT)

    @requires_grad.setter
    def requires_grad(self, wanted: bool) -> NoReturn:
        raise ChainruleError(
            f"requires_grad cannot be set{at_user_line()}: x.detach() or cr.stop_gradient(x) is the value "
            "that no derivative passes, model.requires_grad_(False) freezes parameters"
        )

    # -- out to Python and NumPy ---------------------------------------------------------------------
    def _value(self, what: str) -> Array:
        value: Array | None = self.node.value
        if value is None:
            raise escaped(what)
        return value

    def _number(self, what: str) -> Any:
        if self.size != 1:
            raise ShapeError(
                f"{what} needs a Tensor of one element, this one has shape {self.shape}{at_user_line()}"
            )
        return self._value(what).item()

    def numpy(self) -> Array:
        """The value as a read-only NumPy array (no copy)."""
        return self._value("numpy()")

    def item(self) -> Any:
        """The value of a one-element Tensor as a Python number."""
        return self._number("item()")

    def tolist(self) -> Any:
        """The value as nested Python lists."""
        return self._value("tolist()").tolist()

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        return np.array(self._value("a NumPy array of a Tensor"), dtype=dtype, copy=copy)

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **options: Any) -> Any:
        return wrap(numpy_ufunc(ufunc, method, inputs, options))

    def __array_function__(self, function: Any, types: Any, inputs: Any, options: Any) -> Any:
        return wrap(numpy_function(function, inputs, options))

    def __array_namespace__(self, api_version: str | None = None) -> Any:
        return sys.modules[__package__]

    def __dlpack__(self, **options: Any) -> Any:
        return np.array(self._value("DLPack export")).__dlpack__(**options)  # a copy: consumers may write

    def __dlpack_device__(self) -> Any:
        return self._value("DLPack export").__dlpack_device__()

    def __float__(self) -> float:
        return float(self._number("float(x)"))

    def __int__(self) -> int:
        return int(self._number("int(x)"))

    def __index__(self) -> int:
        if self.dtype.kind not in "iu":
            raise DTypeError(f"a Tensor of {self.dtype} cannot be used as an index{at_user_line()}")
        return int(self._number("an index"))

    def __bool__(self) -> bool:
        if self.size != 1:
            raise ShapeError(
                f"the truth of a Tensor of shape {self.shape} is ambiguous{at_user_line()}: use x.any() or "
                "x.all()"
            )
        return bool(self._value("the truth of a Tensor").item())

    # -- shown to people -------------------------------------------------------------------------------
    def __repr__(self) -> str:
        node, head = self.node, type(self).__name__
        if node.value is None:
            return f"{head}({node.type}, traced: no value yet)"
        body = np.array2string(node.value, separator=", ", prefix=head + "(", threshold=200)
        return f"{head}({body}, dtype={node.dtype})"

    def _repr_html_(self) -> str:
        """For notebooks: type and range above the value."""
        return html_of("tensor", self)

    def __format__(self, spec: str) -> str:
        return format(self.item(), spec) if spec else str(self)

    def __getattr__(self, name: str) -> NoReturn:
        raise AttributeError(missing(name), name=name, obj=self)

    # -- kept and copied ---------------------------------------------------------------------------------
    def __copy__(self) -> Tensor:
        return self  # immutable

    def __deepcopy__(self, memo: dict[int, Any]) -> Tensor:
        copied = Node(None, (), {}, self.node.type, self._value("deepcopy"), (), self.node.status)
        return Tensor(copied)

    def __reduce__(self) -> NoReturn:
        raise ChainruleError(
            f"a Tensor cannot be pickled{at_user_line()}: keep x.numpy(), or a model's state_dict() in "
            "safetensors"
        )

    # -- differentiation -----------------------------------------------------------------------------
    def backward(self, gradient: Any = None, *, retain_graph: bool = False) -> None:
        """Leave d(self)/d(x) in ``x.grad`` of every Tensor x this one was computed from.

        `self` must be a floating scalar, unless `gradient` (same shape) is given. Gradients add up over
        calls with different losses; a second call on the same loss raises, unless `retain_graph` is set.
        The history stays, so that it can be looked at, until the Tensor itself is dropped.
        """
        node = self.node
        check_backward(node, seeded=gradient is not None)
        if node.spent and not retain_graph:
            raise GradientError(
                f"backward() was already called on this loss{at_user_line()}; calling it again would add "
                "every gradient a second time. Compute the loss anew, or pass retain_graph=True if adding "
                "is meant"
            )
        seed = ops.full(node.type, 1) if gradient is None else as_node(gradient)
        if seed.type != node.type:
            raise ShapeError(
                f"gradient has type {seed.type}, this Tensor {node.type}{at_user_line()}: they must agree"
            )
        node.spent = True
        for owner, cotangent in backward(node, seed):
            before = 0 if owner.grad is None else owner.grad.numpy()
            owner.grad = Tensor(constant(np.asarray(before + cotangent.value)))

    def detach(self) -> Tensor:
        """The same value without its history."""
        return Tensor(ops.stop_gradient(self))


class Frame(Protocol):
    """Where cells are read and written while a function is transformed or traced."""

    def read(self, cell: Cell) -> Node | None: ...

    def write(self, cell: Cell, node: Node) -> bool: ...


_frames: ContextVar[tuple[Frame, ...]] = ContextVar("chainrule_frames", default=())


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
    name: str

    def __new__(cls, value: Any, dtype: Any = None) -> Self:
        """A cell that starts with a copy of `value`."""
        cell = object.__new__(cls)
        cell.grad = None
        cell.name = ""
        cell._own(constant(as_array(value.numpy() if isinstance(value, Tensor) else value, dtype)))
        return cell

    def _own(self, node: Node) -> None:
        node.cell = self
        node.status = self._status(node)
        self._node = node

    def _status(self, node: Node) -> int:
        return CONSTANT

    @property
    def node(self) -> Node:
        """The node of the value, or what stands for it in a function that is transformed or traced."""
        for each in _frames.get():
            node = each.read(self)
            if node is not None:
                return node
        return self._node

    @property
    def type(self) -> Type:
        """Shape and dtype, which stay when the value is replaced."""
        type_: Type = self._node.type
        return type_

    def assign(self, value: Any) -> None:
        """Replace the value by one of the same shape; the dtype stays."""
        node = as_node(value)
        if node.trace is not None and not node.trace.open:
            raise escaped(f"assigning to {self.describe()}")
        if node.shape != self._node.shape:
            raise ShapeError(
                f"{self.describe()} has shape {self._node.shape}; cannot assign shape "
                f"{node.shape}{at_user_line()}"
            )
        if node.dtype != self._node.dtype:
            node = ops.astype(node, self._node.dtype)
        if node.status != CONSTANT:
            node = ops.stop_gradient(node)
        for each in _frames.get():
            if each.write(self, node):
                return
        if node.value is None:  # no frame is there to take it
            raise escaped(f"assigning to {self.describe()}")
        self._own(constant(node.value))

    def cast(self, dtype: Any) -> None:
        """Change the dtype in place (floating cells only); the gradient is dropped."""
        if self._node.floating:
            self._own(constant(as_array(self._node.value, dtype)))
            self.grad = None

    def describe(self) -> str:
        """Kind and name, for error messages."""
        return f"{type(self).__name__} {self.name!r}" if self.name else type(self).__name__

    @property
    def data(self) -> Tensor:
        """The value without history; assigning replaces the value, as in PyTorch."""
        return self.detach()

    @data.setter
    def data(self, value: Any) -> None:
        self.assign(value)

    def __copy__(self) -> Self:
        copied = type(self)(self._node.value)
        copied.name = self.name
        return copied

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        copied = memo[id(self)] = self.__copy__()
        return copied

    def _in_place(self, other: Any) -> NoReturn:
        raise ChainruleError(
            f"{self.describe()} cannot be changed with an in-place operator{at_user_line()}: that would "
            "rebind the name and leave the model as it was. Write p.assign(p - rate * p.grad), or use an "
            "optimizer"
        )

    __iadd__ = __isub__ = __imul__ = __itruediv__ = __ifloordiv__ = __imod__ = __ipow__ = _in_place
    __imatmul__ = __iand__ = __ior__ = __ixor__ = __ilshift__ = __irshift__ = _in_place


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

    def _status(self, node: Node) -> int:
        return OWNED if node.floating else CONSTANT


def asarray(value: Any, dtype: Any = None) -> Tensor:
    """A Tensor of `value`: NumPy dtypes are kept, Python floats become float32.

    The value is copied, so later changes to a NumPy array do not reach the Tensor. A value without history
    (detached, or the result of a finished transform) starts a new one.

    >>> import chainrule as cr
    >>> cr.asarray([1.0, 2.0]).dtype, cr.asarray([1, 2]).dtype
    (dtype('float32'), dtype('int64'))
    """
    if isinstance(value, Tensor):
        if dtype is not None and np.dtype(dtype) != value.dtype:
            return value.astype(dtype)
        if value.node.status not in (PLAIN, CONSTANT) or not value.node.floating:
            return value
        value = value.numpy()
    if isinstance(value, list | tuple) and not is_weak(value):
        stacked = Tensor(as_node(value))
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
