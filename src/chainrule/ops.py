"""`ops`: the vocabulary in which pullbacks, layers and optimizers are written.

``ops.multiply(g, ops.cos(x))`` computes when the operands have values and builds a node when they do not:
one rule, two readings. Everything that makes a node goes through `apply`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextvars import ContextVar, Token
from functools import wraps
from typing import Any

import numpy as np

from chainrule.errors import BoundsError, ChainruleError, DTypeError, ShapeError, TraceError
from chainrule.graph import ABSTRACT, CONSTANT, KEEPS_HISTORY, PLAIN, Array, Node, constant
from chainrule.origin import at_user_line, current_origin, layer_origins
from chainrule.primitive import Composite, Primitive
from chainrule.primitives import REGISTRY
from chainrule.tree import flatten, tree_map
from chainrule.types import FLOAT32, Type, promote_dtypes

_recording: ContextVar[bool] = ContextVar("chainrule_recording", default=True)
Weak = bool | int | float  # Python scalars take the dtype of the arrays they meet
_WEAK = (bool, int, float)  # the same for isinstance, which is faster with a tuple


class recording:  # noqa: N801 - used as a statement, `with recording(False):`, or as a decorator
    """Keep history inside the block, or do not."""

    __slots__ = ("_tokens", "on")

    def __init__(self, on: bool) -> None:
        self.on = on
        self._tokens: list[Token[bool]] = []

    def __enter__(self) -> None:
        self._tokens.append(_recording.set(self.on))

    def __exit__(self, *_: object) -> None:
        _recording.reset(self._tokens.pop())

    def __call__(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """`function` as if every call stood inside the block."""

        @wraps(function)
        def inside(*arguments: Any, **options: Any) -> Any:
            with recording(self.on):
                return function(*arguments, **options)

        return inside


def is_recording() -> bool:
    """Whether history is kept now."""
    return _recording.get()


def no_grad() -> recording:
    """Compute inside the block (or the decorated function) without keeping history.

    >>> import chainrule as cr
    >>> x = cr.asarray(3.0)
    >>> with cr.no_grad():
    ...     y = x * x
    >>> y.item()
    9.0
    """
    return recording(False)


def as_array(value: Any, dtype: Any = None) -> Array:
    """`value` as a private read-only array; Python floats become float32."""
    if isinstance(value, complex | str | bytes) or value is None:
        raise DTypeError(f"{value!r} is not a number that a Tensor can hold{at_user_line()}")
    if hasattr(value, "named_parameters"):
        raise DTypeError(
            f"{type(value).__name__} is a Module, where an array is needed{at_user_line()}: call it, as in "
            "model(x), or pass one of its parameters"
        )
    try:
        array = np.array(value, dtype=dtype)
    except ValueError as error:
        raise ragged() if "inhomogeneous" in str(error) else error from None
    if dtype is None and array.dtype.kind == "f" and is_weak(value) and not isinstance(value, np.generic):
        array = array.astype(FLOAT32)
    if array.dtype.kind not in "fiub" or array.dtype == np.float16 or array.dtype.itemsize > 8:
        what = type(value).__name__ if array.dtype == object else f"dtype {array.dtype}"
        raise DTypeError(
            f"{what} is not supported{at_user_line()}: use float32, float64, an integer dtype or bool"
        )
    if not array.dtype.isnative:
        array = array.astype(array.dtype.newbyteorder("="))
    array.flags.writeable = False
    return array


def ragged() -> ShapeError:
    """The error for nested lists whose rows differ."""
    return ShapeError(
        f"these nested lists are not an array{at_user_line()}: their rows have different lengths"
    )


def as_node(value: Any) -> Node:
    """The node behind a Tensor, a node itself, or a constant leaf for anything NumPy understands.

    A list with Tensors in it is stacked, so that derivatives flow to them.
    """
    if isinstance(value, Node):
        return value
    node = getattr(value, "node", None)
    if isinstance(node, Node):
        return node
    if isinstance(value, list | tuple) and not is_weak(value):
        return _stacked(value)
    return constant(as_array(value))


def is_weak(value: Any) -> bool:
    """True for Python numbers and lists of nothing but them: they take the dtype of arrays they meet."""
    if isinstance(value, list | tuple):
        return all(map(is_weak, value))
    return isinstance(value, _WEAK)


def _stacked(rows: Sequence[Any]) -> Node:
    """Nested lists of arrays and numbers as one array."""
    leaves = flatten(rows)[0]
    if not any(isinstance(getattr(leaf, "node", leaf), Node) for leaf in leaves):
        return constant(as_array(rows))
    try:
        outer = np.shape(tree_map(lambda leaf: 0, rows))
    except ValueError:
        raise ragged() from None
    stacked = ops.stack(leaves)
    return ops.reshape(stacked, (*outer, *stacked.shape[1:]))


class Ops:
    """Every primitive and composite as a method: ``ops.add(a, b)``, ``ops.sum(x, axis=0)``."""

    def __getattr__(self, name: str) -> Callable[..., Node]:
        record = REGISTRY.get(name)
        if record is None:
            raise AttributeError(f"there is no operation called {name!r}")
        surface = self.surface(record)
        self.__dict__[name] = surface  # found without __getattr__ from now on
        return surface

    def surface(self, record: Primitive | Composite) -> Callable[..., Node]:
        """What users of `record` call: its own surface, or its operands followed by its attributes."""
        written, name = record.surface, _SPOKEN.get(record.name, record.name)
        if written is None:
            assert isinstance(record, Primitive)
            primitive = record

            def written(self: Ops, *operands: Any, **attributes: Any) -> Node:
                return self.apply(primitive, [as_node(each) for each in operands], **attributes)

        def call(*arguments: Any, **keywords: Any) -> Node:
            try:
                result: Node = written(self, *arguments, **keywords)
            except ChainruleError as error:
                raise located(error, name) from None
            return result

        return call

    def node(self, value: Any) -> Node:
        """`value` as a node."""
        return as_node(value)

    def constant(self, value: Any, dtype: Any) -> Node:
        """A constant of the given dtype; an array that could still be written to is copied."""
        array = np.asarray(value, dtype=dtype)
        return constant(array.copy() if array is value and array.flags.writeable else array)

    def zeros(self, type_: Type) -> Node:
        """Zeros of a type."""
        return self.full(type_, 0)

    def full(self, type_: Type, value: Any) -> Node:
        """`value` everywhere; a broadcast scalar, so it costs no memory."""
        scalar = constant(np.asarray(value, dtype=type_.dtype))
        return scalar if type_.shape == () else self.broadcast_to(scalar, type_.shape)

    def promote(self, name: str, operands: Sequence[Any], kind: str = "number") -> list[Node]:
        """Bring operands to one dtype: arrays by NumPy's rules, Python scalars weakly.

        `kind` says what the operation takes: "number" (anything; booleans are 0 and 1), "counted" (booleans
        become int8), "signed" (no booleans), "float" (all else becomes float64), "integer", "shift"
        (integers; booleans become int8) or "bool" (all else is compared with 0).
        """
        given = [each if isinstance(each, _WEAK) or is_weak(each) else as_node(each) for each in operands]
        nodes = [each for each in given if isinstance(each, Node)]
        if nodes and kind in _TAKE_FLOATS:
            first = nodes[0].type.dtype
            if first.kind == "f" and all(each.type.dtype is first for each in nodes):  # nearly always
                return nodes if len(nodes) == len(given) else [self._to(each, first) for each in given]
        weak = [each for each in given if not isinstance(each, Node)]
        if not nodes:
            nodes = [as_node(each) for each in weak]
            given, weak = [*nodes], []
        try:
            dtype = promote_dtypes([each.dtype for each in nodes], [_number(each) for each in weak])
            dtype = _fit_kind(dtype, kind)
        except DTypeError as error:
            raise located(error, name) from None
        return [self._to(each, dtype) for each in given]

    def _to(self, value: Any, dtype: np.dtype[Any]) -> Node:
        if not isinstance(value, Node):
            return constant(np.asarray(value, dtype=dtype))
        return value if value.dtype == dtype else self.astype(value, dtype)

    def apply(self, primitive: Primitive, operands: Sequence[Node], **attributes: Any) -> Node:
        """The only place where nodes are made: compute if every operand has a value, else build."""
        nodes = tuple(operands)
        try:
            type_ = primitive.infer(*[each.type for each in nodes], **attributes)
        except ChainruleError as error:
            raise located(error, _call(primitive, nodes)) from None
        status = CONSTANT
        for each in nodes:
            if each.status > status:
                status = each.status
        if status == ABSTRACT:
            return self._build(primitive, nodes, attributes, type_)
        try:
            value = primitive.meaning(np, *[each.value for each in nodes], **attributes)
        except IndexError as error:
            raise located(BoundsError(str(error)), _call(primitive, nodes)) from None
        differentiable = not isinstance(type_, Type) or type_.dtype.kind == "f"
        if status in KEEPS_HISTORY and differentiable and _recording.get():
            origins = (current_origin(),)
            return Node(primitive, nodes, attributes, type_, _frozen(value), origins, status)
        status = PLAIN if status == PLAIN and differentiable else CONSTANT
        return Node(None, (), {}, type_, _frozen(value), layer_origins(), status)

    def _build(
        self, primitive: Primitive, nodes: tuple[Node, ...], attributes: dict[str, Any], type_: Any
    ) -> Node:
        """A node without a value, in the innermost of the traces its operands belong to."""
        trace = None
        for each in nodes:
            if each.trace is not None:
                each.trace.check_open(primitive.name)
                if trace is None or each.trace.level > trace.level:
                    trace = each.trace
        if not _recording.get() and primitive is not _STOP:
            # Eagerly, a value computed under no_grad is a constant; so it has to be in a graph.
            nodes = tuple(self.stop_gradient(each) if _flows(each) else each for each in nodes)
        return Node(primitive, nodes, attributes, type_, None, (current_origin(),), ABSTRACT, trace)


_SPOKEN = {"getitem": "indexing"}  # how error messages call an operation whose name nobody writes
_STOP = REGISTRY["stop_gradient"]
_TAKE_FLOATS = (
    "number",
    "any",
    "float",
    "counted",
    "signed",
)  # kinds that compute in the dtype they are given


def _flows(node: Node) -> bool:
    return node.status == ABSTRACT and node.primitive is not _STOP and node.floating


def _number(weak: Any) -> Weak:
    """A Python number that promotes as `weak` does."""
    if not isinstance(weak, list | tuple):
        number: Weak = weak
        return number
    kind = np.asarray(weak).dtype.kind
    return True if kind == "b" else 1.5 if kind == "f" else 1


def _fit_kind(dtype: np.dtype[Any], kind: str) -> np.dtype[Any]:
    """The dtype in which an operation of this kind computes; the rules are NumPy's, float16 left out."""
    boolean = dtype.kind == "b"
    if kind == "float" and dtype.kind != "f":
        return np.dtype(np.float64)
    if kind == "signed" and boolean:
        raise DTypeError("booleans have no sign. Use logical_not or logical_xor, or .astype('int64') first")
    if kind in ("integer", "shift") and dtype.kind == "f":
        raise DTypeError(f"takes integers, not {dtype}")
    if kind in ("counted", "shift") and boolean:
        return np.dtype(np.int8)
    return np.dtype(bool) if kind == "bool" else dtype


def _frozen(value: Any) -> Any:
    """Values are immutable; NumPy's scalars become 0-d arrays."""
    if isinstance(value, tuple):
        return tuple(_frozen(each) for each in value)
    array = value if isinstance(value, np.ndarray) else np.asarray(value)
    array.setflags(write=False)
    return array


def _call(primitive: Primitive, nodes: Sequence[Node]) -> str:
    """``matmul of float32[2,3] and float32[4]``, to begin an error message with."""
    listed = " and ".join(str(each.type) for each in nodes[:4])
    more = f" and {len(nodes) - 4} more" if len(nodes) > 4 else ""
    return f"{primitive.name} of {listed}{more}" if nodes else primitive.name


def located(error: ChainruleError, what: str) -> ChainruleError:
    """`error` with what failed in front and the user's line and layer behind; once, however deep the call."""
    if getattr(error, "is_located", False):
        return error
    text, place = str(error), at_user_line()
    head = "" if text.startswith(what.split(maxsplit=1)[0]) else f"{what}: "
    found = type(error)(f"{head}{text}{'' if place in text else place}")
    found.is_located = True
    return found


def escaped(what: str) -> TraceError:
    """The error for a traced value that is used where only a value will do."""
    return TraceError(
        f"{what}: this Tensor has no value, because it belongs to a function that is being traced "
        f"(cr.compile, a Trainer's step, or the body of scan or checkpoint){at_user_line()}. Inside traced "
        "functions use cr.where for decisions and cr.scan for loops that depend on values"
    )


ops = Ops()
