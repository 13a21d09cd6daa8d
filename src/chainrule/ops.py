"""`ops`: the vocabulary in which pullbacks, layers and optimizers are written.

``ops.mul(g, ops.cos(x))`` computes when the operands have values and builds a node when they do not: one
rule, two readings. Everything that makes a node goes through `apply`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import numpy as np

from chainrule.errors import ChainruleError, DTypeError, TraceError
from chainrule.graph import ABSTRACT, CONSTANT, OWNED, PLAIN, TRACKED, Node, constant
from chainrule.origin import Origin, current_origin, layer_path, user_line
from chainrule.primitive import Composite, Primitive
from chainrule.primitives import REGISTRY
from chainrule.types import Type, default_dtype, promote_dtypes

_recording: ContextVar[bool] = ContextVar("chainrule_recording", default=True)


@contextmanager
def no_grad() -> Iterator[None]:
    """Compute inside the block without keeping history: for evaluation and hand-written updates.

    >>> import chainrule as cr
    >>> x = cr.asarray(3.0)
    >>> with cr.no_grad():
    ...     y = x * x
    >>> y.item()
    9.0
    """
    token = _recording.set(False)
    try:
        yield
    finally:
        _recording.reset(token)


def as_array(value: Any, dtype: Any = None) -> np.ndarray[Any, Any]:
    """`value` as a private read-only array; Python floats become float32."""
    if isinstance(value, complex | str | bytes) or value is None:
        raise DTypeError(f"{value!r} is not a number that a Tensor can hold")
    if dtype is None and not hasattr(value, "dtype") and not hasattr(value, "__array__"):
        dtype = default_dtype(value)
    array = np.array(value, dtype=dtype)
    if array.dtype.kind not in "fiub" or array.dtype == np.float16 or array.dtype.itemsize > 8:
        raise DTypeError(
            f"dtype {array.dtype} is not supported: use float32, float64, an integer dtype or bool"
        )
    if not array.dtype.isnative:
        array = array.astype(array.dtype.newbyteorder("="))
    array.flags.writeable = False
    return array


def as_node(value: Any) -> Node:
    """The node behind a Tensor, a node itself, or a constant leaf for anything NumPy understands."""
    if isinstance(value, Node):
        return value
    node = getattr(value, "node", None)
    return node if isinstance(node, Node) else constant(as_array(value))


class Ops:
    """Every primitive and composite as a method: ``ops.add(a, b)``, ``ops.sum(x, axis=0)``."""

    def __init__(self) -> None:
        self._surfaces: dict[str, Callable[..., Node]] = {}

    def __getattr__(self, name: str) -> Callable[..., Node]:
        record = REGISTRY.get(name)
        if record is None:
            raise AttributeError(f"there is no operation called {name!r}")
        surface = self.surface(record)
        self.__dict__[name] = surface  # found without __getattr__ from now on
        return surface

    def surface(self, record: Primitive | Composite) -> Callable[..., Node]:
        """What users of `record` call: its own surface, or its operands followed by its attributes."""
        if record.surface is None:
            assert isinstance(record, Primitive)
            primitive = record

            def plain(*operands: Any, **attributes: Any) -> Node:
                return self.apply(primitive, [as_node(each) for each in operands], **attributes)

            return plain
        written = record.surface

        def call(*arguments: Any, **keywords: Any) -> Node:
            result: Node = written(self, *arguments, **keywords)
            return result

        return call

    def node(self, value: Any) -> Node:
        """`value` as a node."""
        return as_node(value)

    def constant(self, value: Any, dtype: Any) -> Node:
        """A constant of the given dtype."""
        return constant(np.asarray(value, dtype=dtype))

    def zeros(self, type_: Type) -> Node:
        return self.full(type_, 0)

    def full(self, type_: Type, value: Any) -> Node:
        """`value` everywhere; a broadcast scalar, so it costs no memory."""
        scalar = constant(np.asarray(value, dtype=type_.dtype))
        return scalar if type_.shape == () else self.broadcast_to(scalar, type_.shape)

    def promote(self, name: str, operands: Sequence[Any], kind: str = "number") -> list[Node]:
        """Bring operands to one dtype: arrays by NumPy's rules, Python scalars weakly."""
        scalars = [each for each in operands if isinstance(each, bool | int | float)]
        if len(scalars) == len(operands):
            nodes = [as_node(each) for each in operands]
            scalars = []
        else:
            nodes = [each if isinstance(each, bool | int | float) else as_node(each) for each in operands]  # type: ignore[misc]
        try:
            dtype = promote_dtypes([each.dtype for each in nodes if isinstance(each, Node)], scalars)
            dtype = _fit_kind(name, dtype, kind)
        except DTypeError as error:
            raise DTypeError(f"{name}: {error}{_at_user_line()}") from None
        return [self._to(each, dtype) for each in nodes]

    def _to(self, value: Any, dtype: np.dtype[Any]) -> Node:
        if not isinstance(value, Node):
            return constant(np.asarray(value, dtype=dtype))
        return value if value.dtype == dtype else self.astype(value, dtype)

    def apply(self, primitive: Primitive, operands: Sequence[Node], **attributes: Any) -> Node:
        """The only place where nodes are made: compute if every operand has a value, else build."""
        nodes = tuple(operands)
        try:
            type_ = primitive.infer(*(each.type for each in nodes), **attributes)
        except ChainruleError as error:
            raise type(error)(_complaint(primitive, nodes, error)) from None
        status = max((each.status for each in nodes), default=CONSTANT)
        if status == ABSTRACT:
            return self._build(primitive, nodes, attributes, type_)
        value = _frozen(primitive.meaning(np, *(each.value for each in nodes), **attributes))
        if status in (TRACKED, OWNED, 3) and _recording.get():
            return Node(
                primitive, nodes, attributes, type_, value=value, origins=(current_origin(),), status=status
            )
        status = PLAIN if status == PLAIN else CONSTANT
        origins = (Origin("forward", layer_path()),)
        return Node(None, (), {}, type_, value=value, status=status, origins=origins)

    def _build(
        self, primitive: Primitive, nodes: tuple[Node, ...], attributes: dict[str, Any], type_: Any
    ) -> Node:
        trace = None
        for each in nodes:
            if (
                each.status == ABSTRACT
                and each.trace is not None
                and (trace is None or each.trace.level > trace.level)
            ):
                trace = each.trace
        if trace is not None:
            trace.check_open(primitive)
        return Node(
            primitive, nodes, attributes, type_, origins=(current_origin(),), status=ABSTRACT, trace=trace
        )


def _fit_kind(name: str, dtype: np.dtype[Any], kind: str) -> np.dtype[Any]:
    if kind == "float" and dtype.kind != "f":
        return np.dtype(np.float64)
    if kind == "number" and dtype.kind == "b":
        return np.dtype(np.int64) if name in ("negative", "subtract") else dtype
    if kind == "integer" and dtype.kind not in "iub":
        raise DTypeError(f"takes integers, not {dtype}")
    if kind == "bool" and dtype.kind != "b":
        return np.dtype(bool)
    return dtype


def _frozen(value: Any) -> Any:
    """Values are immutable; NumPy's scalars become 0-d arrays."""
    if isinstance(value, tuple):
        return tuple(_frozen(each) for each in value)
    array = value if isinstance(value, np.ndarray) else np.asarray(value)
    array.flags.writeable = False
    return array


def _complaint(primitive: Primitive, nodes: Sequence[Node], error: Exception) -> str:
    listed = " and ".join(str(each.type) for each in nodes[:4])
    more = f" and {len(nodes) - 4} more" if len(nodes) > 4 else ""
    layer = layer_path()
    where = f" in layer {layer}" if layer else ""
    return f"{primitive.name} of {listed}{more}{where}: {error}{_at_user_line()}"


def _at_user_line() -> str:
    file, line = user_line()
    return f" (at {file}:{line})" if file else ""


def escaped(what: str) -> TraceError:
    """The error for a traced value that is used where only a value will do."""
    return TraceError(
        f"{what}: this Tensor has no value, because it belongs to a function that is being traced "
        f"(cr.compile, a Trainer's step, or the body of scan or checkpoint){_at_user_line()}. "
        "Inside traced functions use cr.where for decisions and cr.scan for loops that depend on values"
    )


ops = Ops()
