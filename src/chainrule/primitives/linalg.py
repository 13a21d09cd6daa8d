"""Contractions: matrix products, tensor products, einsum."""

from __future__ import annotations

from collections.abc import Sequence
from string import ascii_letters
from typing import Any

import numpy as np

from chainrule.errors import ShapeError
from chainrule.nest import Nest, Read, along, broadcast_index, multiplied
from chainrule.primitive import Composite, Draw, Primitive, Sample
from chainrule.primitives._define import in_numpy, place_along
from chainrule.types import Shape, Type, broadcast_shapes, normalise_axis, promote_dtypes


# -- matmul ----------------------------------------------------------------------------------------------
def _matmul_type(a: Type, b: Type) -> Type:
    if a.shape[-1] != b.shape[-2]:
        raise ShapeError(
            f"shapes {a.shape} and {b.shape} do not fit: the last axis of the first ({a.shape[-1]}) must be "
            f"as long as the second to last of the second ({b.shape[-2]})"
        )
    batch = broadcast_shapes(a.shape[:-2], b.shape[:-2])
    return Type((*batch, a.shape[-2], b.shape[-1]), promote_dtypes([a.dtype, b.dtype]))


def _matmul_surface(ops: Any, a: Any, b: Any) -> Any:
    """All of NumPy's rank rules: a 1-d operand becomes a row or a column, and its axis is dropped again."""
    left, right = ops.promote("matmul", [a, b])
    if left.ndim == 0 or right.ndim == 0:
        raise ShapeError(
            f"matmul needs at least one dimension on both sides, not shapes {left.shape} and {right.shape}: "
            "use * instead"
        )
    row, column = left.ndim == 1, right.ndim == 1
    product = ops.apply(
        MATMUL,
        [ops.expand_dims(left, axis=0) if row else left, ops.expand_dims(right, axis=1) if column else right],
    )
    shape = product.shape
    if row:
        shape = (*shape[:-2], shape[-1])
    if column:
        shape = shape[:-1]
    return ops.reshape(product, shape)


def _matmul_nest(a: Type, b: Type) -> Nest:
    """Loop axes: batch, rows, columns, and last the axis that is summed over."""
    shape = _matmul_type(a, b).shape
    batch, rows, columns, summed = shape[:-2], len(shape) - 2, len(shape) - 1, len(shape)
    left = Read(0, a.shape, (*broadcast_index(a.shape[:-2], batch), along(rows), along(summed)))
    right = Read(1, b.shape, (*broadcast_index(b.shape[:-2], batch), along(summed), along(columns)))
    return Nest((*shape, a.shape[-1]), tuple(range(len(shape))), (left, right), multiplied, "sum")


MATMUL = Primitive(
    "matmul",
    "Matrix product over the last two axes; leading axes broadcast.",
    _matmul_type,
    lambda xp, a, b: xp.matmul(a, b),
    (
        lambda ops, g, y, a, b: ops.matmul(g, ops.matrix_transpose(b)),
        # (g^T a)^T, not a^T g: layers multiply by a transposed weight, whose gradient is then row-major.
        lambda ops, g, y, a, b: ops.matrix_transpose(ops.matmul(ops.matrix_transpose(g), a)),
    ),
    (
        Sample((Draw((2, 3)), Draw((3, 4)))),
        Sample((Draw((5, 2, 3)), Draw((3, 4)))),
        Sample((Draw((2, 1, 2, 3)), Draw((4, 3, 1)))),
        Sample((Draw((2, 0)), Draw((0, 3)))),
        Sample((Draw((0, 2)), Draw((2, 3)))),
    ),
    _matmul_surface,
    oracle="numpy.matmul",
    nest=_matmul_nest,
    ulps=16.0,
)


# -- einsum ----------------------------------------------------------------------------------------------
def _parse(subscripts: str, ranks: Sequence[int]) -> tuple[tuple[str, ...], str]:
    """Operand labels and output labels, all written out; raises `ShapeError` for what NumPy would reject."""
    left, arrow, output = subscripts.replace(" ", "").partition("->")
    labels = tuple(left.split(","))
    if len(labels) != len(ranks):
        raise ShapeError(f"einsum {subscripts!r} has {len(labels)} terms but {len(ranks)} operands")
    for term, rank in zip(labels, ranks, strict=True):
        if len(term) != rank:
            raise ShapeError(
                f"einsum {subscripts!r}: term {term!r} has {len(term)} labels, its operand {rank} dimensions"
            )
    if not arrow:
        joined = "".join(labels)
        output = "".join(sorted(each for each in set(joined) if joined.count(each) == 1))
    if len(set(output)) != len(output) or not set(output) <= set("".join(labels)):
        raise ShapeError(
            f"einsum {subscripts!r}: every output label must occur once in the output and in some operand"
        )
    return labels, output


def _extents(labels: Sequence[str], shapes: Sequence[tuple[int, ...]]) -> dict[str, int]:
    extents: dict[str, int] = {}
    for term, shape in zip(labels, shapes, strict=True):
        for label, extent in zip(term, shape, strict=True):
            if extents.setdefault(label, extent) != extent:
                raise ShapeError(f"label {label!r} stands for axes of lengths {extents[label]} and {extent}")
    return extents


def _einsum_type(*types: Type, subscripts: str) -> Type:
    labels, output = _parse(subscripts, [each.ndim for each in types])
    extents = _extents(labels, [each.shape for each in types])
    return Type(tuple(extents[each] for each in output), promote_dtypes([each.dtype for each in types]))


def _einsum(xp: Any, *arrays: Any, subscripts: str) -> Any:
    """Sums of nothing are 0; NumPy (2.4) would read what lies where an empty array begins, NaN perhaps."""
    if in_numpy(xp) and not all(each.size for each in arrays):
        labels, output = _parse(subscripts, [each.ndim for each in arrays])
        extents = _extents(labels, [each.shape for each in arrays])
        return np.zeros([extents[each] for each in output], np.result_type(*arrays))
    return xp.einsum(subscripts, *arrays, optimize=len(arrays) > 2)


def _einsum_pullback(ops: Any, g: Any, y: Any, *operands: Any, subscripts: str) -> list[Any]:
    labels, output = _parse(subscripts, [each.ndim for each in operands])
    extents = _extents(labels, [each.shape for each in operands])
    return [
        _einsum_cotangent(ops, g, operands, labels, output, extents, index) for index in range(len(operands))
    ]


def _einsum_cotangent(
    ops: Any,
    g: Any,
    operands: Sequence[Any],
    labels: Sequence[str],
    output: str,
    extents: dict[str, int],
    index: int,
) -> Any:
    """The same contraction with the output in the place of operand `index`.

    A label that only this operand has was summed away: its cotangent is repeated along that axis. A label
    that it has twice took a diagonal: its cotangent goes back onto the diagonal.
    """
    term = labels[index]
    others = [(labels[k], operands[k]) for k in range(len(operands)) if k != index]
    known = set(output).union(*(other for other, _ in others))
    distinct = "".join(dict.fromkeys(term))
    reached = "".join(label for label in distinct if label in known)
    inputs = ",".join([output, *(other for other, _ in others)])
    if inputs == reached:
        cotangent = g
    else:
        cotangent = ops.einsum(f"{inputs}->{reached}", g, *(operand for _, operand in others))
    shape = tuple(extents[label] if label in known else 1 for label in distinct)
    cotangent = ops.broadcast_to(ops.reshape(cotangent, shape), tuple(extents[label] for label in distinct))
    return _onto_diagonal(ops, cotangent, distinct, term, extents)


def _onto_diagonal(ops: Any, cotangent: Any, distinct: str, term: str, extents: dict[str, int]) -> Any:
    shape = tuple(extents[label] for label in term)
    spread = ops.reshape(
        ops.permute_dims(cotangent, [distinct.index(label) for label in sorted(distinct, key=term.index)]),
        tuple(extents[label] if term.index(label) == k else 1 for k, label in enumerate(term)),
    )
    for k, label in enumerate(term):
        first = term.index(label)
        if first != k:
            along = place_along(ops, extents[label], first, len(term))
            across = place_along(ops, extents[label], k, len(term))
            spread = ops.where(ops.equal(along, across), spread, 0)
    return ops.broadcast_to(spread, shape)


def _einsum_surface(ops: Any, subscripts: str, *operands: Any) -> Any:
    nodes = ops.promote("einsum", operands)
    if "..." in subscripts:
        subscripts, nodes = _without_ellipsis(ops, subscripts.replace(" ", ""), nodes)
    labels, output = _parse(subscripts, [each.ndim for each in nodes])
    return ops.apply(EINSUM, nodes, subscripts=",".join(labels) + "->" + output)


def _without_ellipsis(ops: Any, subscripts: str, nodes: Sequence[Any]) -> tuple[str, list[Any]]:
    """'...' spelt out: the axes it stands for get labels of their own and broadcast against each other."""
    left, arrow, output = subscripts.partition("->")
    terms = left.split(",")
    if len(terms) != len(nodes):
        raise ShapeError(f"einsum {subscripts!r} has {len(terms)} terms but {len(nodes)} operands")
    hidden = [
        node.shape[term.index("...") :][: node.ndim - len(term) + 3] if "..." in term else ()
        for term, node in zip(terms, nodes, strict=True)
    ]
    shape = broadcast_shapes(*hidden)
    free = "".join(each for each in ascii_letters if each not in subscripts)[: len(shape)]
    if not arrow:
        named = "".join(terms).replace("...", "")
        output = "..." + "".join(sorted(each for each in set(named) if named.count(each) == 1))
    spread = [
        ops.broadcast_to(node, _widened(node.shape, term.index("..."), own, shape)) if "..." in term else node
        for term, node, own in zip(terms, nodes, hidden, strict=True)
    ]
    written = [
        term.replace("...", free[len(free) - len(own) :]) for term, own in zip(terms, hidden, strict=True)
    ]
    return ",".join(written) + "->" + output.replace("...", free), spread


def _widened(shape: Shape, at: int, own: Shape, common: Shape) -> Shape:
    """`shape` with the extents `own`, which begin at an axis, broadcast to the last ones of `common`."""
    return (*shape[:at], *common[len(common) - len(own) :], *shape[at + len(own) :])


def _einsum_nest(*types: Type, subscripts: str) -> Nest:
    """A loop axis per label: those of the output first, then those that are summed over."""
    labels, output = _parse(subscripts, [each.ndim for each in types])
    extents = _extents(labels, [each.shape for each in types])
    loop = list(dict.fromkeys(output + "".join(labels)))
    reads = tuple(
        Read(k, each.shape, tuple(along(loop.index(label)) for label in term))
        for k, (term, each) in enumerate(zip(labels, types, strict=True))
    )
    return Nest(tuple(extents[label] for label in loop), tuple(range(len(output))), reads, multiplied, "sum")


EINSUM = Primitive(
    "einsum",
    "Sum of products over labelled axes, in Einstein's notation.",
    _einsum_type,
    _einsum,
    _einsum_pullback,
    (
        Sample((Draw((2, 3)), Draw((3, 4))), {"subscripts": "ij,jk->ik"}),
        Sample((Draw((2, 3)),), {"subscripts": "ij->j"}),
        Sample((Draw((2, 3)),), {"subscripts": "ij->i"}),
        Sample((Draw((2, 3)), Draw((4, 3))), {"subscripts": "ij,kj->i"}),
        Sample((Draw((3, 3)),), {"subscripts": "ii->i"}),
        Sample((Draw((3, 2, 3)),), {"subscripts": "iji->j"}),
        Sample((Draw((3, 3, 2)),), {"subscripts": "iij->ij"}),
        Sample((Draw((3, 3)),), {"subscripts": "ii->"}),
        Sample((Draw((2, 3)), Draw((2, 3)), Draw((3,))), {"subscripts": "ij,ij,j->i"}),
        Sample((Draw((2, 3, 4)), Draw((2, 5, 4))), {"subscripts": "bik,bjk->bij"}),
        Sample((Draw((2,)), Draw((3,))), {"subscripts": "i,j->ji"}),
        Sample((Draw((0, 3)), Draw((3,))), {"subscripts": "ij,j->i"}),
        Sample((np.broadcast_to(np.nan, (0, 3)), Draw((0,))), {"subscripts": "ij,i->j"}, value=np.zeros(3)),
    ),
    _einsum_surface,
    oracle="numpy.einsum",
    spelling=lambda function, *arrays, subscripts: function(subscripts, *arrays),
    nest=_einsum_nest,
    ulps=16.0,
)


# -- combinations ----------------------------------------------------------------------------------------
def _tensordot(ops: Any, a: Any, b: Any, axes: Any = 2) -> Any:
    left, right = ops.promote("tensordot", [a, b])
    if isinstance(axes, int):
        ours, theirs = list(range(left.ndim - axes, left.ndim)), list(range(axes))
    else:
        ours, theirs = ([each] if isinstance(each, int) else list(each) for each in axes)
    ours = [normalise_axis(axis, left.ndim) for axis in ours]
    theirs = [normalise_axis(axis, right.ndim) for axis in theirs]
    if [left.shape[k] for k in ours] != [right.shape[k] for k in theirs]:
        raise ShapeError(
            f"tensordot: axes {ours} of shape {left.shape} do not match axes {theirs} of shape {right.shape}"
        )
    kept = [k for k in range(left.ndim) if k not in ours]
    free = [k for k in range(right.ndim) if k not in theirs]
    count = 1
    for k in ours:
        count *= left.shape[k]
    rows = ops.reshape(ops.permute_dims(left, kept + ours), (_product(left.shape[k] for k in kept), count))
    columns = ops.reshape(
        ops.permute_dims(right, theirs + free), (count, _product(right.shape[k] for k in free))
    )
    shape = tuple(left.shape[k] for k in kept) + tuple(right.shape[k] for k in free)
    return ops.reshape(ops.matmul(rows, columns), shape)


def _product(extents: Any) -> int:
    total = 1
    for extent in extents:
        total *= extent
    return total


def _vecdot(ops: Any, a: Any, b: Any, axis: int = -1) -> Any:
    products = ops.multiply(a, b)
    return ops.astype(ops.sum(products, axis=axis), products.dtype)


def _outer(ops: Any, a: Any, b: Any) -> Any:
    left, right = ops.node(a), ops.node(b)
    if left.ndim != 1 or right.ndim != 1:
        raise ShapeError(f"outer needs two vectors, not shapes {left.shape} and {right.shape}")
    return ops.multiply(ops.expand_dims(left, axis=1), ops.expand_dims(right, axis=0))


RECORDS: tuple[Primitive | Composite, ...] = (
    MATMUL, EINSUM,
    Composite(
        "tensordot", "Sum of products over pairs of axes.", _tensordot,
        (
            Sample((Draw((2, 3, 4)), Draw((3, 4, 2))), {"axes": 2}),
            Sample((Draw((2, 3)), Draw((4, 2))), {"axes": ((0,), (1,))}),
            Sample((Draw((2,)), Draw((3,))), {"axes": 0}),
        ),
        oracle="numpy.tensordot",
    ),
    Composite(
        "vecdot", "Dot product along an axis.", _vecdot,
        (Sample((Draw((2, 3)), Draw((3,)))), Sample((Draw((3, 2)), Draw((3, 1))), {"axis": 0})),
        oracle="numpy.vecdot",
    ),
    Composite(
        "outer", "Outer product of two vectors.", _outer, (Sample((Draw((2,)), Draw((3,)))),),
        oracle="numpy.outer",
    ),
)  # fmt: skip
