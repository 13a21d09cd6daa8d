"""The graph: nodes that know their operands and why they exist.

One class of node serves both readings. An eager node carries its `value`; a traced one does not. So the
history behind a `Tensor` *is* a graph, and whatever reads graphs (the backward walk, the ledger, the
printer) reads an eager loss as well as a compiled step.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import count
from operator import attrgetter
from typing import Any
from weakref import ReferenceType

import numpy as np

from chainrule.errors import BoundsError, GraphError
from chainrule.origin import Origin
from chainrule.primitive import Primitive
from chainrule.types import Shape, Type

Array = np.ndarray[Any, Any]

# How a value takes part in differentiation; of several operands the highest decides (see docs/design.md).
CONSTANT = 0  # no derivative is wanted: integers, scalars, stop_gradient
TRACKED = 1  # made by asarray: history is kept so that .backward() works
PLAIN = 2  # came out of a finished cr.grad(...): a value, as in JAX; what is computed from it is plain too
ACTIVE = 3  # an argument of a running transform
OWNED = 4  # a Parameter, or computed from one
ABSTRACT = 5  # traced: has no value yet
KEEPS_HISTORY = frozenset((TRACKED, ACTIVE, OWNED))

ITEM = "item"  # the primitive that takes one output of a node with several
_serial = count()
_SHOWN = 4  # elements of a constant that are printed


class Node:
    """One value in a graph: the primitive and operands that make it, its type, and its origins.

    A node without a primitive is a leaf: a constant when it has a value, an input when it has none.
    `serial` grows with creation, so that sorting by it is a topological order.
    """

    __slots__ = (
        "__weakref__", "attributes", "cell", "grad_owner", "label", "operands", "origins",
        "primitive", "serial", "spent", "status", "trace", "type", "value",
    )  # fmt: skip

    def __init__(
        self,
        primitive: Primitive | None,
        operands: tuple[Node, ...],
        attributes: dict[str, Any],
        type_: Any,
        value: Any = None,
        origins: tuple[Origin, ...] = (),
        status: int = CONSTANT,
        trace: Any = None,
        label: str = "",
    ) -> None:
        self.primitive = primitive
        self.operands = operands
        self.attributes = attributes
        self.type: Any = type_  # a Type; a tuple of them for a node with several outputs
        self.value = value
        self.origins = origins
        self.status = status
        self.trace = trace
        self.label = label
        self.serial = next(_serial)
        self.cell: Any = None
        self.grad_owner: ReferenceType[Any] | None = None
        self.spent = False

    def made_last(self) -> None:
        """Take the place in the order of nodes that a node made now would have."""
        self.serial = next(_serial)

    @property
    def name(self) -> str:
        """The primitive's name, or what kind of leaf this is."""
        if self.primitive is not None:
            return self.primitive.name
        return "input" if self.value is None else "constant"

    @property
    def shape(self) -> Shape:
        shape: Shape = self.type.shape
        return shape

    @property
    def dtype(self) -> np.dtype[Any]:
        dtype: np.dtype[Any] = self.type.dtype
        return dtype

    @property
    def ndim(self) -> int:
        return len(self.type.shape)

    @property
    def size(self) -> int:
        """Number of elements."""
        size: int = self.type.size
        return size

    @property
    def types(self) -> tuple[Type, ...]:
        """The types of all outputs; one for every primitive but `call` and `scan`."""
        return (self.type,) if isinstance(self.type, Type) else tuple(self.type)

    @property
    def floating(self) -> bool:
        """True when a derivative can flow through (some output of) this node."""
        type_ = self.type
        if isinstance(type_, Type):
            return type_.dtype.kind == "f"
        return any(each.dtype.kind == "f" for each in type_)

    @property
    def layer(self) -> str:
        """Path of the layer this node belongs to, "" outside of any."""
        return next((origin.layer for origin in self.origins if origin.layer), "")

    def __repr__(self) -> str:
        return f"<{self.name} {format_type(self.type)}>"


def constant(value: Array, label: str = "") -> Node:
    """A leaf that takes `value` over (it becomes read-only), through which no derivative flows."""
    value.setflags(write=False)
    return Node(None, (), {}, Type(value.shape, value.dtype), value, label=label)


def reachable(outputs: Iterable[Node], stop: Iterable[Node] = ()) -> list[Node]:
    """Every node `outputs` are made from, operands before users; nodes in `stop` are not entered."""
    seen: set[Node] = set()
    barrier = set(stop)
    pending = list(outputs)
    while pending:
        node = pending.pop()
        if node not in seen:
            seen.add(node)
            if node not in barrier:
                pending.extend(node.operands)
    return sorted(seen, key=attrgetter("serial"))


@dataclass(frozen=True, eq=False)
class Graph:
    """A pure program: values for `inputs` in, values of `outputs` out.

    private  nobody else has the nodes that it computes: the next pass may change them, and leaves no graph
             but its own
    """

    inputs: tuple[Node, ...]
    outputs: tuple[Node, ...]
    private: bool = False

    @cached_property
    def nodes(self) -> tuple[Node, ...]:
        """Inputs, then every node that the outputs need, operands before users."""
        given = set(self.inputs)
        return self.inputs + tuple(n for n in reachable(self.outputs, self.inputs) if n not in given)

    @cached_property
    def steps(self) -> tuple[tuple[Node, tuple[Node, ...]], ...]:
        """Every node to compute, with the nodes whose value nobody needs after it."""
        last_use: dict[Node, Node] = {}
        for node in self.nodes:
            for each in (node, *node.operands):
                last_use[each] = node
        dead: dict[Node, list[Node]] = {node: [] for node in self.nodes}
        given, asked = set(self.inputs), set(self.outputs)
        for node, user in last_use.items():
            if node not in asked:
                dead[user].append(node)
        return tuple((node, tuple(dead[node])) for node in self.nodes if node not in given)

    def evaluate(self, xp: Any, *values: Any) -> tuple[Any, ...]:
        """The meaning of the whole graph in the array namespace `xp`, one node after the other."""
        if len(values) != len(self.inputs):
            raise GraphError(f"the graph has {len(self.inputs)} inputs but was given {len(values)} values")
        known: dict[Node, Any] = dict(zip(self.inputs, values, strict=True))
        for node, dead in self.steps:
            known[node] = node.value if node.primitive is None else _computed(xp, node, known)
            for each in dead:
                del known[each]
        return tuple(known[node] for node in self.outputs)

    def __str__(self) -> str:
        return "\n".join(format_graph(self))

    def __len__(self) -> int:
        return len(self.nodes)


def _computed(xp: Any, node: Node, known: dict[Node, Any]) -> Any:
    assert node.primitive is not None
    try:
        return node.primitive.meaning(xp, *(known[each] for each in node.operands), **node.attributes)
    except IndexError as error:
        raise BoundsError(f"{describe(node)}: {error}") from None


def describe(node: Node) -> str:
    """What a node is and where it comes from, for an error message: ``gather in emb, train.py:12``."""
    reasons = [str(origin) for origin in node.origins[:1]]
    return ", ".join([f"{node.name} {format_type(node.type)}", *reasons])


def format_type(type_: Any) -> str:
    """``float32[64,8]``, or a bracketed list for a node with several outputs."""
    if isinstance(type_, Type):
        return str(type_)
    return "(" + ", ".join(map(str, type_)) + ")"


def format_attribute(value: Any) -> str:
    """An attribute of a node as text; a sub-graph is printed below its node."""
    if isinstance(value, Graph):
        return f"graph of {len(value)} nodes"
    if isinstance(value, np.dtype):
        return str(value)
    return repr(value)


def format_graph(graph: Graph, indent: str = "") -> Iterator[str]:
    """The graph as text, a line per node: ``%5 = matmul(%0, %4) : float32[64,8]   # forward in layers.0``."""
    names = {node: f"%{index}" for index, node in enumerate(graph.nodes)}
    heads = ", ".join(
        f"{names[n]}: {format_type(n.type)}" + (f" {n.label}" if n.label else "") for n in graph.inputs
    )
    yield f"{indent}graph({heads}) {{"
    given = set(graph.inputs)
    for node in graph.nodes:
        if node not in given:
            yield from _format_node(node, names, indent + "  ")
    yield f"{indent}  return {', '.join(names[node] for node in graph.outputs)}"
    yield f"{indent}}}"


def format_value(value: Array | None) -> str:
    """A constant as text: small ones in full, one repeated number as that number, anything else as ``…``."""
    if value is not None and 0 < value.size <= _SHOWN:
        return np.array2string(value, separator=", ").replace("\n", "")
    if value is not None and value.size and not any(value.strides):
        return f"{value.flat[0]}, everywhere"
    return "…"


def _format_node(node: Node, names: dict[Node, str], indent: str) -> Iterator[str]:
    if node.primitive is None:
        text = f"constant({format_value(node.value)})"
    else:
        arguments = [names[each] for each in node.operands]
        arguments += [f"{key}={format_attribute(value)}" for key, value in node.attributes.items()]
        text = f"{node.name}({', '.join(arguments)})"
    reasons = "; ".join(dict.fromkeys(map(_format_origin(names), node.origins)))
    line = f"{indent}{names[node]} = {text} : {format_type(node.type)}"
    yield f"{line:<72}  # {reasons}" if reasons else line
    for value in node.attributes.values():
        if isinstance(value, Graph):
            yield from format_graph(value, indent + "  ")


def _format_origin(names: dict[Node, str]) -> Any:
    def text(origin: Origin) -> str:
        if origin.of is None:
            return str(origin)
        target = names.get(origin.of, origin.of.name)
        through = "" if origin.operand is None else f" through operand {origin.operand}"
        layer = f" in {origin.layer}" if origin.layer else ""
        return f"{origin.role} of {target}{through}{layer}"

    return text


def substitute(graph: Graph, replaced: dict[Node, Node]) -> Graph:
    """`graph` with nodes exchanged as `replaced` says; what does not depend on them is shared, not copied."""
    known = dict(replaced)
    for node in graph.nodes:
        if node in known:
            continue
        operands = tuple(known.get(each, each) for each in node.operands)
        same = all(a is b for a, b in zip(operands, node.operands, strict=True))
        known[node] = node if same else rebuilt(node, operands, known)
    return Graph(tuple(known.get(n, n) for n in graph.inputs), tuple(known.get(n, n) for n in graph.outputs))


def rebuilt(node: Node, operands: Sequence[Node], known: Mapping[Node, Any] | None = None) -> Node:
    """A copy of `node` with other operands, without value, which belongs to no trace.

    Its reasons are the same; where they speak of a node that `known` exchanges, they speak of the new one.
    """
    origins = tuple(_moved(origin, known) for origin in node.origins) if known else node.origins
    return Node(
        node.primitive, tuple(operands), node.attributes, node.type, None,
        origins, ABSTRACT, None, node.label,
    )  # fmt: skip


def _moved(origin: Origin, known: Mapping[Node, Any]) -> Origin:
    target = known.get(origin.of)
    return origin._replace(of=target) if isinstance(target, Node) else origin


def released(node: Node) -> Node:
    """An input like `node` that belongs to no trace."""
    return Node(None, (), {}, node.type, None, node.origins, ABSTRACT, None, node.label)
