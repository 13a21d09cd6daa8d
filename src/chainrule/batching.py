"""`vmap`: a function of one example becomes a function of many.

The function is traced once, on one example. Every node of that graph then runs on a whole batch: where its
attributes let a leading axis be added, as one operation; otherwise in a loop over the examples, which is
right for every primitive.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import wraps
from string import ascii_letters
from typing import Any, NamedTuple

from chainrule.control import CALL, Arguments, items
from chainrule.errors import ShapeError
from chainrule.graph import ITEM, Graph, Node
from chainrule.loops import SCAN, scan
from chainrule.ops import ops
from chainrule.origin import Origin, at_user_line, because
from chainrule.primitive import Primitive
from chainrule.tensor import Tensor
from chainrule.trace import LoopTrace, Trace, close, trace_body
from chainrule.tree import flatten, unflatten
from chainrule.types import Type, normalise_axis


class Batched(NamedTuple):
    """What stands for a node of one example: the same value for all (`many` False), or one per example."""

    node: Node
    many: bool

    def aligned(self, ndim: int) -> Node:
        """Ready to broadcast against values of `ndim` dimensions per example: the axis of examples first."""
        shape = self.node.shape
        missing = ndim + 1 - len(shape)
        if not self.many or missing <= 0:
            return self.node
        return ops.reshape(self.node, (shape[0], *(1,) * missing, *shape[1:]))

    def spread(self, size: int) -> Node:
        """One value per example, repeated where all had the same."""
        return self.node if self.many else ops.broadcast_to(self.node, (size, *self.node.shape))


Rule = Callable[[Node, Sequence[Batched], int], Node]


# -- rules: the same operation with one more axis in front ---------------------------------------------------
def _elementwise(node: Node, operands: Sequence[Batched], size: int) -> Node:
    return _again(node, [each.aligned(node.ndim) for each in operands])


def _along_axis(node: Node, operands: Sequence[Batched], size: int) -> Node:
    axis = node.attributes["axis"]
    moved = tuple(each + 1 for each in axis) if isinstance(axis, tuple) else axis + 1
    return _again(node, [each.spread(size) for each in operands], axis=moved)


def _to_shape(node: Node, operands: Sequence[Batched], size: int) -> Node:
    x = operands[0].aligned(node.ndim) if node.name == "broadcast_to" else operands[0].node
    return _again(node, [x], shape=(size, *node.shape))


def _permute(node: Node, operands: Sequence[Batched], size: int) -> Node:
    return _again(node, [operands[0].node], axes=(0, *(axis + 1 for axis in node.attributes["axes"])))


def _slice(node: Node, operands: Sequence[Batched], size: int) -> Node:
    a = node.attributes
    longer = {"start": (0, *a["start"]), "stop": (size, *a["stop"]), "step": (1, *a["step"])}
    if "shape" in a:
        longer["shape"] = (size, *a["shape"])
    return _again(node, [operands[0].node], **longer)


def _matmul(node: Node, operands: Sequence[Batched], size: int) -> Node:
    return _again(node, [each.aligned(node.ndim) for each in operands])


def _einsum(node: Node, operands: Sequence[Batched], size: int) -> Node:
    subscripts = node.attributes["subscripts"]
    example = next(letter for letter in ascii_letters if letter not in subscripts)
    terms, output = subscripts.split("->")
    longer = [
        example + term if each.many else term for term, each in zip(terms.split(","), operands, strict=True)
    ]
    return _again(node, [each.node for each in operands], subscripts=f"{','.join(longer)}->{example}{output}")


def _convolve(node: Node, operands: Sequence[Batched], size: int) -> Node:
    x, w = operands
    if w.many:  # every example has kernels of its own: they are groups
        y = _again(node, [ops.moveaxis(x.spread(size), 0, 1), w.node])
        return ops.moveaxis(y, 1, 0)
    y = _again(node, [ops.reshape(x.node, (size * x.node.shape[1], *x.node.shape[2:])), w.node])
    return ops.reshape(y, (size, *node.shape))


def _gather(node: Node, operands: Sequence[Batched], size: int) -> Node:
    x, *indices = operands
    axis, ndim = node.attributes["axis"], max(len(_shape(each)) for each in indices)
    if not any(each.many for each in indices):
        return _again(node, [x.node, *(each.node for each in indices)], axis=axis + 1)
    aligned = [each.aligned(ndim) for each in indices]
    if not x.many:
        return ops.moveaxis(_again(node, [x.node, *aligned]), axis, 0)
    # Every example looks up in its own array: its number is one more index, beside the others.
    order = (0, *range(axis + 1, axis + 1 + len(indices)), *range(1, axis + 1))
    order += tuple(k for k in range(x.node.ndim) if k not in order)
    example = ops.reshape(ops.iota((size,)), (size, *(1,) * ndim))
    found = _again(node, [ops.permute_dims(x.node, order), example, *aligned], axis=0)
    back = (0, *range(1 + ndim, 1 + ndim + axis), *range(1, 1 + ndim), *range(1 + ndim + axis, found.ndim))
    return ops.permute_dims(found, back)


def _scatter(node: Node, operands: Sequence[Batched], size: int) -> Node:
    x, *indices = operands
    a = node.attributes
    if not any(each.many for each in indices):
        at = [each.node for each in indices]
        return _again(node, [x.node, *at], axis=a["axis"] + 1, shape=(size, *a["shape"]))
    if a["axis"] != 0:
        return one_by_one(node, operands, size)[0]
    ndim = max(len(_shape(each)) for each in indices)
    example = ops.reshape(ops.iota((size,)), (size, *(1,) * ndim))
    aligned = [each.aligned(ndim) for each in indices]
    return _again(node, [x.spread(size), example, *aligned], shape=(size, *a["shape"]))


RULES: dict[str, Rule] = {
    **dict.fromkeys(("sum", "max", "min", "logsumexp", "any", "all", "argmax", "argmin"), _along_axis),
    **dict.fromkeys(("argsort", "cumulative_sum", "concat", "flip"), _along_axis),
    **dict.fromkeys(("reshape", "broadcast_to"), _to_shape),
    **dict.fromkeys(("slice", "place"), _slice),
    "permute_dims": _permute,
    "matmul": _matmul,
    "einsum": _einsum,
    "convolve": _convolve,
    "gather": _gather,
    "scatter": _scatter,
}


def _again(node: Node, operands: Sequence[Node], **changed: Any) -> Node:
    return ops.apply(_record(node), operands, **{**node.attributes, **changed})


def _record(node: Node) -> Primitive:
    assert node.primitive is not None
    return node.primitive


def _shape(operand: Batched) -> tuple[int, ...]:
    """The shape for one example."""
    return operand.node.shape[1:] if operand.many else operand.node.shape


# -- nodes with a graph inside, and the loop for all others --------------------------------------------------
def _call(node: Node, operands: Sequence[Batched], size: int) -> list[Node]:
    inside = batched_graph(node.attributes["graph"], [each.many for each in operands], size)
    return items(ops.apply(CALL, [each.node for each in operands], graph=inside))


def _scan(node: Node, operands: Sequence[Batched], size: int) -> list[Node]:
    """The same loop, in which every step takes all examples: time stays the leading axis inside."""
    carries, sequences = node.attributes["carries"], node.attributes["sequences"]
    state = [each.spread(size) for each in operands[:carries]]
    series = operands[carries : carries + sequences]
    rest = operands[carries + sequences :]
    along = [ops.moveaxis(each.node, 0, 1) if each.many else each.node for each in series]
    many = [True] * carries + [each.many for each in (*series, *rest)]
    inside = batched_graph(node.attributes["graph"], many, size)
    longer = {**node.attributes, "graph": inside}
    found = items(ops.apply(SCAN, [*state, *along, *(each.node for each in rest)], **longer))
    return [*found[:carries], *(ops.moveaxis(each, 1, 0) for each in found[carries:])]


def batched_graph(graph: Graph, many: Sequence[bool], size: int) -> Graph:
    """`graph` for `size` examples: inputs with one value per example where `many` says so, outputs always."""
    trace = Trace()
    inputs = [
        trace.input(Type((size, *node.shape), node.dtype) if each else node.type, node.label)
        for node, each in zip(graph.inputs, many, strict=True)
    ]
    with trace.running():
        given = [Batched(node, each) for node, each in zip(inputs, many, strict=True)]
        outputs = [each.spread(size) for each in batch(graph, given, size)]
    return close(inputs, outputs, trace)[0]


def one_by_one(node: Node, operands: Sequence[Batched], size: int) -> list[Node]:
    """Every output of `node`, in a loop over the examples: right whatever the primitive is."""

    def single(_: None, rows: Sequence[Tensor]) -> tuple[None, list[Tensor]]:
        given = iter(rows)
        made = _again(node, [next(given).node if each.many else each.node for each in operands])
        return None, [Tensor(each) for each in _outputs(made)]

    found = scan(single, None, [Tensor(each.node) for each in operands if each.many], length=size)[1]
    return [each.node for each in found]


def _outputs(node: Node) -> list[Node]:
    return [node] if isinstance(node.type, Type) else items(node)


# -- the walk ------------------------------------------------------------------------------------------------
def batch(graph: Graph, values: Sequence[Batched], size: int) -> list[Batched]:
    """The outputs of `graph` for `size` examples at once, given what stands for its inputs."""
    known: dict[Node, list[Batched]] = {node: [each] for node, each in zip(graph.inputs, values, strict=True)}
    for node in graph.nodes:
        if node not in known:
            first = node.origins[0] if node.origins else Origin()
            with because(first):
                known[node] = _batched(node, known, size)
    return [known[node][0] for node in graph.outputs]


def _batched(node: Node, known: dict[Node, list[Batched]], size: int) -> list[Batched]:
    """What stands for every output of `node`."""
    if node.primitive is None:
        return [Batched(node, False)]
    if node.name == ITEM:
        return [known[node.operands[0]][node.attributes["index"]]]
    operands = [known[each][0] for each in node.operands]
    if not any(each.many for each in operands):
        return [Batched(each, False) for each in _outputs(_again(node, [each.node for each in operands]))]
    if node.name == "call" and node.attributes.get("backward") is None:
        found = _call(node, operands, size)
    elif node.name == "scan":
        found = _scan(node, operands, size)
    elif node.primitive.elementwise:
        found = [_elementwise(node, operands, size)]
    elif node.name in RULES:
        found = [RULES[node.name](node, operands, size)]
    else:
        found = one_by_one(node, operands, size)
    return [Batched(each, True) for each in found]


# -- the transform -------------------------------------------------------------------------------------------
def vmap(
    function: Callable[..., Any], in_axes: int | Sequence[int | None] | None = 0, out_axes: int = 0
) -> Callable[..., Any]:
    """`function` of one example, applied to every example along an axis of the arguments at once.

    `in_axes` says for each argument which axis counts the examples (None: the argument is the same for
    all); arrays in a container share their argument's axis, keyword arguments have axis 0. Results carry
    the examples on `out_axes`. State cannot be assigned inside.

    >>> import chainrule as cr
    >>> per_example = cr.vmap(cr.grad(lambda w, x: cr.tanh(cr.sum(w * x))), in_axes=(None, 0))
    >>> per_example(cr.zeros(2), cr.asarray([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])).tolist()
    [[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]
    """

    @wraps(function)
    def mapped(*arguments: Any, **options: Any) -> Any:
        axes = list(in_axes) if isinstance(in_axes, Sequence) else [in_axes] * len(arguments)
        if len(axes) != len(arguments):
            raise ShapeError(
                f"vmap: in_axes names {len(axes)} arguments, not {len(arguments)}{at_user_line()}"
            )
        given = Arguments(arguments, options)
        moved = _moved(given, _axis_of_leaves(arguments, options, axes))
        size = _common_size(moved)

        def of_examples(*tensors: Tensor) -> Any:
            example = iter(tensors)
            filled = [next(example) if each.many else Tensor(each.node) for each in moved]
            return given.call(function, filled)

        types = [Type(_shape(each), each.node.dtype) for each in moved if each.many]
        body = trace_body(of_examples, types, LoopTrace("vmap"))
        values = [each for each in moved if each.many] + [Batched(node, False) for node in body.captured]
        found = [each.spread(size) for each in batch(body.graph, values, size)]
        placed = [ops.moveaxis(each, 0, normalise_axis(out_axes, each.ndim)) for each in found]
        return unflatten(body.structure, [Tensor(each) for each in placed])

    return mapped


def _axis_of_leaves(
    arguments: Sequence[Any], options: dict[str, Any], axes: Sequence[int | None]
) -> list[int | None]:
    """The axis of every leaf, in the order of `flatten`."""
    by_argument = [[axis] * len(flatten(each)[0]) for each, axis in zip(arguments, axes, strict=True)]
    keywords: list[int | None] = [0] * len(flatten(options)[0])
    return [axis for each in by_argument for axis in each] + keywords


def _moved(given: Arguments, axes: Sequence[int | None]) -> list[Batched]:
    """The arrays among the arguments, the axis of examples in front."""
    of_arrays = [axis for axis, moves in zip(axes, given.moving, strict=True) if moves]
    return [
        Batched(node, False) if axis is None else Batched(ops.moveaxis(node, axis, 0), True)
        for node, axis in zip(given.nodes, of_arrays, strict=True)
    ]


def _common_size(moved: Sequence[Batched]) -> int:
    sizes = sorted({each.node.shape[0] for each in moved if each.many})
    if len(sizes) != 1:
        listed = ", ".join(map(str, sizes)) or "none at all"
        raise ShapeError(
            f"vmap: the arguments need one common number of examples{at_user_line()}, not {listed}; in_axes "
            "says which axis counts them"
        )
    return sizes[0]
