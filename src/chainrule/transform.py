"""Transforms of functions: grad, value_and_grad, vjp, jvp, jacobian, hessian.

Arguments may be nested containers of arrays, or a Module; the gradient of a Module is a dict of parameter
path → Tensor. Functions run on values, so they may branch on them. The results of a finished transform are
plain values, as in JAX, unless a Parameter that is not an argument takes part.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from functools import wraps
from typing import Any

import numpy as np

from chainrule.errors import DTypeError, GradientError, ShapeError
from chainrule.graph import ABSTRACT, ACTIVE, OWNED, PLAIN, Node
from chainrule.ops import _at_user_line, as_node, no_grad, ops
from chainrule.origin import current_origin
from chainrule.primitives import REGISTRY
from chainrule.reverse import walk
from chainrule.tensor import Cell, Tensor, frame
from chainrule.tree import Structure, flatten, unflatten
from chainrule.types import Type

_depth: ContextVar[int] = ContextVar("chainrule_transform_depth", default=0)


def grad(function: Callable[..., Any], argnums: int | Sequence[int] = 0) -> Callable[..., Any]:
    """The gradient of a scalar function by argument `argnums` (a tuple gives a tuple).

    >>> import chainrule as cr
    >>> cr.grad(lambda x: cr.sum(x**3))(cr.asarray([1.0, 2.0])).tolist()
    [3.0, 12.0]
    """
    both = value_and_grad(function, argnums)

    @wraps(function)
    def gradient(*arguments: Any, **options: Any) -> Any:
        return both(*arguments, **options)[1]

    return gradient


def value_and_grad(
    function: Callable[..., Any], argnums: int | Sequence[int] = 0, has_aux: bool = False
) -> Callable[..., Any]:
    """The value of a scalar function and its gradient by argument `argnums`.

    With `has_aux` the function returns ``(scalar, anything)``, which comes back as the value.

    >>> import chainrule as cr
    >>> value, gradient = cr.value_and_grad(lambda x: x * x)(cr.asarray(3.0))
    >>> value.item(), gradient.item()
    (9.0, 6.0)
    """

    @wraps(function)
    def both(*arguments: Any, **options: Any) -> Any:
        active = Active(arguments, argnums)
        with active.running():
            result = function(*active.arguments, **options)
            output = _scalar(result[0] if has_aux else result)
            with active.recording(output):
                found = walk([output], [ops.full(output.type, 1)], active.nodes)
        value = (active.finish(output, output), result[1]) if has_aux else active.finish(output, output)
        return value, active.gradients(output, found)

    return both


def vjp(function: Callable[..., Any], *primals: Any) -> tuple[Any, Callable[[Any], tuple[Any, ...]]]:
    """The value of ``function(*primals)`` and its pullback: cotangent of the value → cotangents of the primals.

    >>> import chainrule as cr
    >>> value, pullback = cr.vjp(lambda x: x * x, cr.asarray([1.0, 2.0]))
    >>> pullback(cr.asarray([1.0, 10.0]))[0].tolist()
    [2.0, 40.0]
    """
    active = Active(primals, tuple(range(len(primals))))
    with active.running():
        leaves, structure = flatten(function(*active.arguments))
        outputs = [as_node(leaf) for leaf in leaves]

    def pullback(cotangent: Any) -> tuple[Any, ...]:
        seeds = _seeds(cotangent, structure, outputs)
        top = max(outputs, key=lambda node: node.status)
        with active.running(), active.recording(*outputs, *seeds):
            pairs = [(y, g) for y, g in zip(outputs, seeds, strict=True) if y.floating]
            found = walk([y for y, _ in pairs], [g for _, g in pairs], active.nodes)
        result: tuple[Any, ...] = active.gradients(top, found, also=seeds)
        return result

    return unflatten(structure, [active.finish(each, each) for each in outputs]), pullback


def jvp(function: Callable[..., Any], primals: Sequence[Any], tangents: Sequence[Any]) -> tuple[Any, Any]:
    """The value of ``function(*primals)`` and its derivative in the direction of `tangents`.

    Forward mode by transposing twice: the pullback is linear in its cotangent, so its own pullback is the
    tangent map. No primitive needs a second rule.

    >>> import chainrule as cr
    >>> value, tangent = cr.jvp(lambda x: cr.sin(x), (cr.asarray(0.0),), (cr.asarray(2.0),))
    >>> tangent.item()
    2.0
    """
    if len(primals) != len(tangents):
        raise ShapeError(f"jvp: {len(primals)} primals but {len(tangents)} tangents{_at_user_line()}")
    active = Active(primals, tuple(range(len(primals))))
    directions = active.directions(tangents)
    with active.running():
        leaves, structure = flatten(function(*active.arguments))
        outputs = [as_node(leaf) for leaf in leaves]
        floating = [node for node in outputs if node.floating]
        seeds = [_leaf(ops.zeros(node.type), ACTIVE) for node in floating]
        pulled = walk(floating, seeds, active.nodes)
        reached = [(c, t) for c, t in zip(pulled, directions, strict=True) if c is not None]
        with active.recording(*outputs, *directions):
            moved = iter(walk([c for c, _ in reached], [t for _, t in reached], seeds))
            results = [
                (next(moved) or ops.zeros(y.type)) if y.floating else ops.zeros(y.type) for y in outputs
            ]
    top = max(outputs, key=lambda node: node.status)
    value = unflatten(structure, [active.finish(each, each) for each in outputs])
    return value, unflatten(structure, [active.finish(each, top, *directions) for each in results])


def jacobian(function: Callable[..., Any], argnums: int = 0) -> Callable[..., Any]:
    """All derivatives of an array by an array: shape ``output.shape + input.shape``, a row per output element.

    >>> import chainrule as cr
    >>> cr.jacobian(lambda x: x * x)(cr.asarray([1.0, 2.0])).tolist()
    [[2.0, 0.0], [0.0, 4.0]]
    """

    @wraps(function)
    def derivative(*arguments: Any) -> Any:
        chosen = arguments[argnums]

        def of_one(value: Any) -> Any:
            return function(*arguments[:argnums], value, *arguments[argnums + 1 :])

        value, pullback = vjp(of_one, chosen)
        if not isinstance(value, Tensor):
            raise ShapeError(f"jacobian needs a function that returns one array{_at_user_line()}")
        count = value.size
        basis = np.eye(count, dtype=value.dtype).reshape(count, *value.shape)
        rows = [flatten(pullback(as_node(row))[0]) for row in basis]
        if not rows:
            leaves, structure = flatten(chosen)
            empty = [
                Tensor(ops.zeros(Type((*value.shape, *as_node(leaf).shape), value.dtype))) for leaf in leaves
            ]
            return unflatten(structure, empty)
        columns = [ops.stack([leaves[k] for leaves, _ in rows]) for k in range(len(rows[0][0]))]
        shaped = [Tensor(ops.reshape(each, (*value.shape, *each.shape[1:]))) for each in columns]
        return unflatten(rows[0][1], shaped)

    return derivative


def hessian(function: Callable[..., Any], argnums: int = 0) -> Callable[..., Any]:
    """Second derivatives of a scalar function of one array: shape ``input.shape + input.shape``.

    >>> import chainrule as cr
    >>> cr.hessian(lambda x: cr.sum(x**3))(cr.asarray([1.0, 2.0])).tolist()
    [[6.0, 0.0], [0.0, 12.0]]
    """
    return jacobian(grad(function, argnums), argnums)


def stop_gradient(value: Any) -> Any:
    """`value` (an array or a nested container) as a constant: no derivative flows through it.

    >>> import chainrule as cr
    >>> cr.grad(lambda x: x * cr.stop_gradient(x))(cr.asarray(3.0)).item()
    3.0
    """
    leaves, structure = flatten(value)
    return unflatten(structure, [Tensor(ops.stop_gradient(leaf)) for leaf in leaves])


# -- the arguments of a running transform ------------------------------------------------------------------
class Binding:
    """A frame that answers for the parameters of Modules that are arguments."""

    def __init__(self) -> None:
        self.nodes: dict[Cell, Node] = {}

    def read(self, cell: Cell) -> Node | None:
        return self.nodes.get(cell)

    def write(self, cell: Cell, node: Node) -> bool:
        if cell in self.nodes:
            raise GradientError(
                f"{cell.describe()} is being differentiated and cannot be assigned{_at_user_line()}"
            )
        return False


class Active:
    """The arguments of a transform, those in `argnums` replaced by fresh active copies."""

    def __init__(self, arguments: Sequence[Any], argnums: int | Sequence[int]) -> None:
        self.single = isinstance(argnums, int)
        chosen = (argnums,) if isinstance(argnums, int) else tuple(argnums)
        for k in chosen:
            if not -len(arguments) <= k < len(arguments):
                raise ShapeError(
                    f"argnums names argument {k}, but there are only {len(arguments)}{_at_user_line()}"
                )
        self.nested = _depth.get() > 0
        self.nodes: list[Node] = []
        self.binding = Binding()
        self.arguments = list(arguments)
        self._slots: list[tuple[Structure, list[Any]]] = []
        for k in chosen:
            leaves, structure = flatten(arguments[k])
            slots = [self._activate(leaf) for leaf in leaves]
            self._slots.append((structure, slots))
            fresh = [
                leaf if isinstance(slot, dict) else Tensor(slot)
                for leaf, slot in zip(leaves, slots, strict=True)
            ]
            self.arguments[k] = unflatten(structure, fresh)

    def _activate(self, leaf: Any) -> Any:
        """The active node for an array, or {path: node} for a Module."""
        if hasattr(leaf, "named_parameters"):
            for _, cell in leaf.named_parameters():
                if cell not in self.binding.nodes:
                    self.binding.nodes[cell] = self._fresh(cell.node, cut=True)
            return {
                path: self.binding.nodes[cell] for path, cell in leaf.named_parameters(remove_duplicate=False)
            }
        return self._fresh(as_node(leaf), cut=isinstance(leaf, Cell))

    def _fresh(self, node: Node, cut: bool) -> Node:
        if not node.floating:
            raise DTypeError(
                f"cannot differentiate by an argument of {node.dtype}{_at_user_line()}: derivatives need floating point. "
                "Convert it (x.astype('float32')) or leave it out with argnums"
            )
        linked = (
            node.status == ABSTRACT
            or node.status == ACTIVE
            or (node.status == OWNED and not cut)
            or self.nested
        )
        if linked and node.status:
            fresh = ops.apply(REGISTRY["identity"], [node])  # type: ignore[arg-type]
            fresh.status = max(fresh.status, ACTIVE)
        else:
            fresh = _leaf(node, ACTIVE)
        self.nodes.append(fresh)
        return fresh

    @contextmanager
    def running(self) -> Iterator[None]:
        token = _depth.set(_depth.get() + 1)
        try:
            with frame(self.binding):
                yield
        finally:
            _depth.reset(token)

    def keeps_history(self, *nodes: Node) -> bool:
        """True when the results may be differentiated further: nested, traced, or made with a Parameter."""
        return self.nested or any(node.status in (OWNED, ABSTRACT) for node in nodes)

    def recording(self, *nodes: Node) -> Any:
        return nullcontext() if self.keeps_history(*nodes, *self.nodes) else no_grad()

    def finish(self, node: Node, *deciding: Node) -> Tensor:
        """A result: with its history where that can be used, else a plain value."""
        if self.keeps_history(*deciding, *self.nodes) or node.value is None:
            return Tensor(node)
        return Tensor(_leaf(node, PLAIN if node.floating else 0))

    def gradients(self, output: Node, found: Sequence[Node | None], also: Sequence[Node] = ()) -> Any:
        """The cotangents in the structure of the arguments; zeros where nothing flowed."""
        by_node = {
            node: self.finish(ops.zeros(node.type) if each is None else each, output, *also)
            for node, each in zip(self.nodes, found, strict=True)
        }
        shaped = []
        for structure, slots in self._slots:
            filled = [
                {p: by_node[n] for p, n in s.items()} if isinstance(s, dict) else by_node[s] for s in slots
            ]
            shaped.append(unflatten(structure, filled))
        return shaped[0] if self.single else tuple(shaped)

    def directions(self, tangents: Sequence[Any]) -> list[Node]:
        """The tangents as one node per active node, checked against their types."""
        nodes: list[Node] = []
        for (structure, slots), tangent in zip(self._slots, tangents, strict=True):
            leaves, given = flatten(tangent)
            if len(leaves) == len(slots):
                for slot, leaf in zip(slots, leaves, strict=True):
                    nodes.extend(
                        [as_node(leaf[p]) for p in slot] if isinstance(slot, dict) else [as_node(leaf)]
                    )
            else:
                raise ShapeError(
                    f"a tangent has the structure {given}, its primal {structure}{_at_user_line()}"
                )
        for node, tangent_node in zip(self.nodes, nodes, strict=True):
            if node.type != tangent_node.type:
                raise ShapeError(
                    f"a tangent is {tangent_node.type}, its primal {node.type}{_at_user_line()}: they must agree"
                )
        return nodes


def _leaf(node: Node, status: int) -> Node:
    """The value of `node` without its history, taking part in differentiation as `status` says."""
    leaf = Node(None, (), {}, node.type, value=node.value, status=status, label=node.label)
    leaf.origins = (current_origin(),)
    return leaf


def _scalar(result: Any) -> Node:
    if isinstance(result, dict | list | tuple) or result is None:
        raise GradientError(
            f"grad needs a function that returns one scalar, not a {type(result).__name__}{_at_user_line()}"
        )
    node = as_node(result)
    if node.shape != ():
        raise GradientError(
            f"grad needs a function that returns a scalar, this one returned shape {node.shape}{_at_user_line()}: reduce it "
            "with cr.sum or cr.mean, or use cr.vjp or cr.jacobian"
        )
    if not node.floating:
        raise GradientError(
            f"grad needs a floating result, this function returned {node.dtype}{_at_user_line()}"
        )
    return node


def _seeds(cotangent: Any, structure: Structure, outputs: Sequence[Node]) -> list[Node]:
    leaves, given = flatten(cotangent)
    if given != structure:
        raise ShapeError(
            f"the cotangent has another structure than the value of the function{_at_user_line()}"
        )
    seeds = [as_node(leaf) for leaf in leaves]
    for seed, output in zip(seeds, outputs, strict=True):
        if output.floating and seed.type != output.type:
            raise ShapeError(
                f"a cotangent is {seed.type}, its output {output.type}{_at_user_line()}: they must agree"
            )
    return seeds
