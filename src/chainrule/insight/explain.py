"""`cr.explain`: one number of a network as the sum of what made it, layer by layer."""

from __future__ import annotations

from typing import Literal

from chainrule.errors import DTypeError, GradientError
from chainrule.insight.explanation import Explanation, Part, Remainder, Step
from chainrule.insight.labels import Element, Labels
from chainrule.insight.making import Making
from chainrule.insight.moment import Given, Moment, moment_of
from chainrule.insight.named import leaves_of, place_in, value_named
from chainrule.insight.opening import Book, Number
from chainrule.insight.rows import Rows
from chainrule.insight.unrolled import unrolled
from chainrule.origin import at_user_line
from chainrule.reverse import check_backward
from chainrule.tensor import Tensor

__all__ = ["Explanation", "Part", "Remainder", "Step", "explain"]


def explain(
    loss: Given,
    name: str | Tensor | None = None,
    index: int | tuple[int, ...] = (),
    most: int = 5,
    step: int | None = None,
    of: Literal["gradient", "activation"] | None = None,
) -> Explanation:
    """Open one number of a network into the parts that made it: of a gradient, or of an activation.

    loss   a scalar that was computed eagerly, or a run or its folder; for activations any Tensor
    name   of what an element is opened: a parameter, "layers.0.weight"; an input, "input", "input 1"; a
           layer, "layers.0", which means its output; or a Tensor from which the loss was computed. None means
           the loss itself
    index  which element: one number per axis, counted from 0
    most   how many parts are listed; the others are one remainder
    step   the step of a run; None means the last
    of     "gradient", the derivative of the loss by the element: what is meant by a parameter or an input; or
           "activation", the value of the element: what is meant by a layer, or a loss

    Parts and remainder add up to the number, to rounding, and each part opens further.

    >>> import numpy as np, chainrule as cr
    >>> weight = cr.nn.Parameter(np.array([2.0, 1.0]))
    >>> weight.name = "weight"
    >>> inputs = np.array([[1.0, 0.0], [3.0, 1.0], [10.0, 2.0]])
    >>> with cr.scope("score"):
    ...     score = inputs @ weight
    >>> loss = cr.sum(cr.square(score))
    >>> found = cr.explain(loss, "weight", 0)
    >>> found.value  # Σ over the rows of 2 · score · inputs[:, 0]
    486.0
    >>> [(part.label, part.value) for part in found.children]
    [('score[2]', 440.0), ('score[1]', 42.0), ('score[0]', 4.0)]
    >>> [(part.label, part.value) for part in cr.explain(loss, "score", 2).children]
    [('input[2, 0] × weight[0]', 20.0), ('input[2, 1] × weight[1]', 2.0)]
    """
    moment = moment_of(loss, step)
    found = moment.loss.node
    label, node = ("loss", found) if name is None else value_named(found, name)
    place = place_in(node, label, index)
    if of is None:
        of = "gradient" if node.primitive is None and name is not None else "activation"
    return _opened(moment, Element(node, place), f"{label}{list(place)}" if place else label, of, most)


def _opened(moment: Moment, at: Element, label: str, of: str, most: int) -> Explanation:
    if of not in ("gradient", "activation"):
        raise ValueError(f'of={of!r}{at_user_line()}: what can be opened is "gradient" or "activation"')
    if of == "gradient":
        check_backward(moment.loss.node, seeded=False)
    elif not at.node.floating:
        raise DTypeError(f"{label} is of {at.node.dtype}{at_user_line()}: only floating-point numbers open")
    written = unrolled(moment.loss.node)
    at = Element(written.known.get(at.node, at.node), at.place)
    leaves = {leaf: name for name, leaf in leaves_of(written.output).items()}
    rows = Rows([written.output], moment.rows) if moment.rows else None
    labels = Labels(leaves, written.times, rows)
    if of == "activation":
        return Making(written.output, labels).opened(at, label, most)
    book = Book(written.output, [at.node], labels)
    if at.node not in book.adjoint.cotangents:
        raise GradientError(f"no derivative flows from this loss to {label}{at_user_line()}")
    return Number(book, *at).opened(label, most)
