"""Transforms of functions: grad, value_and_grad, vjp, jvp, jacobian, hessian.

Arguments may be nested containers of arrays, or a Module; the gradient of a Module is a dict of parameter
path → Tensor. Functions run on values, so they may branch on them. The results of a finished transform are
plain values, as in JAX, unless a Parameter that is not an argument takes part (docs/design.md says why).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any

import numpy as np

from chainrule.active import Active, leaf_of
from chainrule.errors import GradientError, ShapeError
from chainrule.graph import ACTIVE, Node
from chainrule.ops import as_node, ops
from chainrule.origin import at_user_line
from chainrule.reverse import walk
from chainrule.tensor import Tensor
from chainrule.tree import Structure, flatten, flatten_as, unflatten
from chainrule.types import Type


def grad(
    function: Callable[..., Any], argnums: int | Sequence[int] = 0, has_aux: bool = False
) -> Callable[..., Any]:
    """The gradient of a scalar function by argument `argnums` (a tuple gives a tuple).

    With `has_aux` the function returns ``(scalar, anything)`` and the gradient ``(gradient, anything)``.

    >>> import chainrule as cr
    >>> cr.grad(lambda x: cr.sum(x**3))(cr.asarray([1.0, 2.0])).tolist()
    [3.0, 12.0]
    """
    both = value_and_grad(function, argnums, has_aux)

    @wraps(function)
    def gradient(*arguments: Any, **options: Any) -> Any:
        value, found = both(*arguments, **options)
        return (found, value[1]) if has_aux else found

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
            result, aux = _with_aux(result) if has_aux else (result, None)
            output = _scalar(result)
            with active.recording(output):
                found = walk([output], [ops.full(output.type, 1)], active.nodes)
        value = active.finish(output, output)
        gradient = active.gradients(found, output)
        return ((value, active.finished(aux)) if has_aux else value), gradient

    return both


def value_and_cotangents(
    function: Callable[..., Any], argument: Any, others: Callable[[Node], Sequence[Node]]
) -> tuple[Tensor, Any, list[Node | None]]:
    """The value of a scalar function, its gradient, and its derivative by values met on the way.

    others  given the node of the value: the nodes of these, asked when the function has run
    The last are nodes, None for one on which the value does not depend: they belong where the function ran.
    """
    active = Active((argument,), 0)
    with active.running():
        output = _scalar(function(*active.arguments))
        with active.recording(output):
            wanted = [*active.nodes, *others(output)]
            found = walk([output], [ops.full(output.type, 1)], wanted)
    count = len(active.nodes)
    return active.finish(output, output), active.gradients(found[:count], output), found[count:]


def vjp(function: Callable[..., Any], *primals: Any, has_aux: bool = False) -> Any:
    """The value of ``function(*primals)`` and its pullback: cotangent of the value → those of the primals.

    With `has_aux` the function returns ``(value, anything)``, and anything comes back as a third result.

    >>> import chainrule as cr
    >>> value, pullback = cr.vjp(lambda x: x * x, cr.asarray([1.0, 2.0]))
    >>> pullback(cr.asarray([1.0, 10.0]))[0].tolist()
    [2.0, 40.0]
    """
    active = Active(primals, tuple(range(len(primals))))
    with active.running():
        result = function(*active.arguments)
        result, aux = _with_aux(result) if has_aux else (result, None)
        leaves, structure = flatten(result)
        outputs = [as_node(leaf) for leaf in leaves]

    def pullback(cotangent: Any) -> tuple[Any, ...]:
        seeds = _seeds(cotangent, structure, outputs)
        with active.running(), active.recording(*outputs, *seeds):
            pairs = [(y, g) for y, g in zip(outputs, seeds, strict=True) if y.floating]
            found = walk([y for y, _ in pairs], [g for _, g in pairs], active.nodes)
        result: tuple[Any, ...] = active.gradients(found, *outputs, *seeds)
        return result

    value = unflatten(structure, [active.finish(each, each) for each in outputs])
    return (value, pullback, active.finished(aux)) if has_aux else (value, pullback)


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
        raise ShapeError(f"jvp: {len(primals)} primals but {len(tangents)} tangents{at_user_line()}")
    active = Active(primals, tuple(range(len(primals))))
    directions = active.directions(tangents)
    with active.running():
        leaves, structure = flatten(function(*active.arguments))
        outputs = [as_node(leaf) for leaf in leaves]
        floating = [node for node in outputs if node.floating]
        seeds = [leaf_of(ops.zeros(node.type), ACTIVE) for node in floating]
        pulled = walk(floating, seeds, active.nodes)
        reached = [(c, t) for c, t in zip(pulled, directions, strict=True) if c is not None]
        with active.recording(*outputs, *directions):
            moved = walk([c for c, _ in reached], [t for _, t in reached], seeds)
    by_output = dict(zip(floating, moved, strict=True))
    results = [by_output.get(each) or ops.zeros(each.type) for each in outputs]
    value = unflatten(structure, [active.finish(each, each) for each in outputs])
    return value, unflatten(structure, [active.finish(each, *outputs, *directions) for each in results])


def jacobian(function: Callable[..., Any], argnums: int | Sequence[int] = 0) -> Callable[..., Any]:
    """All derivatives of what the function returns by argument `argnums`.

    For arrays the shape is ``output.shape + input.shape``. For containers the result has the structure of
    the output, and in it, in the place of each array, the structure of the input.

    >>> import chainrule as cr
    >>> cr.jacobian(lambda x: x * x)(cr.asarray([1.0, 2.0])).tolist()
    [[2.0, 0.0], [0.0, 4.0]]
    """

    @wraps(function)
    def derivative(*arguments: Any, **options: Any) -> Any:
        single = isinstance(argnums, int)
        chosen = [argnums] if isinstance(argnums, int) else list(argnums)

        def of_chosen(*values: Any) -> Any:
            filled = list(arguments)
            for k, value in zip(chosen, values, strict=True):
                filled[k] = value
            return function(*filled, **options)

        value, pullback = vjp(of_chosen, *(arguments[k] for k in chosen))
        leaves, structure = flatten(value)
        outputs = [as_node(leaf) for leaf in leaves]

        def rows_of(k: int) -> Any:
            found = _rows(outputs, k, lambda seeds: pullback(unflatten(structure, seeds)))
            return found[0] if single else found

        return unflatten(structure, [rows_of(k) for k in range(len(outputs))])

    return derivative


def _rows(outputs: Sequence[Node], k: int, pullback: Callable[[list[Tensor]], Any]) -> Any:
    """The derivatives of output `k`: its pullback of every unit cotangent, stacked."""
    output = outputs[k]
    if not output.floating:
        raise GradientError(
            f"jacobian of a function that returns {output.dtype}{at_user_line()}: not floating"
        )
    seeds = [Tensor(ops.zeros(each.type)) for each in outputs]
    if output.size == 0:
        leaves, structure = flatten(pullback(seeds))
        return unflatten(
            structure, [Tensor(ops.zeros(Type((*output.shape, *x.shape), x.dtype))) for x in leaves]
        )
    rows = []
    for unit in np.eye(output.size, dtype=output.dtype).reshape(output.size, *output.shape):
        seeds[k] = Tensor(as_node(unit))
        rows.append(flatten(pullback(seeds)))
    columns = [ops.stack(column) for column in zip(*(leaves for leaves, _ in rows), strict=True)]
    shaped = [Tensor(ops.reshape(each, (*output.shape, *each.shape[1:]))) for each in columns]
    return unflatten(rows[0][1], shaped)


def hessian(function: Callable[..., Any], argnums: int | Sequence[int] = 0) -> Callable[..., Any]:
    """Second derivatives of a scalar function, in the structure that `jacobian` gives.

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


def _with_aux(result: Any) -> tuple[Any, Any]:
    if not isinstance(result, tuple) or len(result) != 2:
        raise GradientError(
            f"has_aux=True needs a function that returns a pair (value, anything){at_user_line()}, not a "
            f"{type(result).__name__}"
        )
    return result


def _scalar(result: Any) -> Node:
    if isinstance(result, dict | list | tuple) or result is None:
        hint = "; for (loss, anything) pass has_aux=True" if isinstance(result, tuple) else ""
        raise GradientError(
            "grad needs a function that returns one scalar, not a "
            f"{type(result).__name__}{at_user_line()}{hint}"
        )
    node = as_node(result)
    if node.shape != ():
        raise GradientError(
            "grad needs a function that returns a scalar, this one returned shape "
            f"{node.shape}{at_user_line()}: reduce it with cr.sum or cr.mean, or use cr.vjp or cr.jacobian"
        )
    if not node.floating:
        raise GradientError(
            f"grad needs a floating result, this function returned {node.dtype}{at_user_line()}: integers "
            "and booleans have no derivative"
        )
    return node


def _seeds(cotangent: Any, structure: Structure, outputs: Sequence[Node]) -> list[Node]:
    """The cotangent as one node per output, checked against their types."""
    leaves = flatten_as(structure, cotangent, "the cotangent")
    seeds = [as_node(leaf) for leaf in leaves]
    for seed, output in zip(seeds, outputs, strict=True):
        if output.floating and seed.type != output.type:
            raise ShapeError(
                f"a cotangent is {seed.type}, its output {output.type}{at_user_line()}: they must agree"
            )
    return seeds
