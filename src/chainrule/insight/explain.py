"""`cr.explain`: one number of a network as the sum of what made it, layer by layer."""

from __future__ import annotations

import re
from typing import Literal

from chainrule.errors import DTypeError, GradientError
from chainrule.graph import Node
from chainrule.insight.explanation import Explanation, Part, Remainder, Step, checked
from chainrule.insight.labels import Element, Labels, ends_of
from chainrule.insight.making import Making
from chainrule.insight.moment import Given, Moment, moment_of
from chainrule.insight.named import NEAR, asked_for, leaves_of, place_in, value_named
from chainrule.insight.opening import Book, Number
from chainrule.insight.rows import Rows
from chainrule.insight.unrolled import Unrolled, unrolled
from chainrule.origin import at_user_line
from chainrule.reverse import check_backward
from chainrule.tensor import Tensor

__all__ = ["Explanation", "Part", "Remainder", "Step", "explain"]
GRADIENT, ACTIVATION = "gradient", "activation"


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
           layer, "layers.0", which means its output ("cell@3" in step 3 of a loop, "layers.0#1" the first of
           several); or a Tensor from which the loss was computed. None means the loss itself
    index  which element: one number per axis, counted from 0, negative ones from the end; it may stand in
           the name instead, "layers.0.weight[3, 5]"
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
    most = checked(most)
    moment = moment_of(loss, step)
    name, index = asked_for(name, index)
    kind = of or _usual(moment.loss.node, name)
    if kind not in (GRADIENT, ACTIVATION):
        raise ValueError(f'of={of!r}{at_user_line()}: what can be opened is "gradient" or "activation"')
    written = unrolled(moment.loss.node, values=kind == ACTIVATION)
    label, node = _meant(moment.loss.node, name, written)
    place = place_in(node, label, index)
    opened = _gradient if kind == GRADIENT else _activation
    return opened(moment, written, Element(node, place), f"{label}{list(place)}" if place else label, most)


def _usual(loss: Node, name: str | Tensor | None) -> str:
    """What is meant by a name alone: the gradient of what was given or is learned, else the value."""
    if name is None or (isinstance(name, str) and _numbered(name)):
        return ACTIVATION
    if isinstance(name, str) and name not in leaves_of(loss):
        return ACTIVATION
    return ACTIVATION if value_named(loss, name)[1].primitive else GRADIENT


def _meant(loss: Node, name: str | Tensor | None, written: Unrolled) -> tuple[str, Node]:
    """What a name means, and what it is called: "cell@3" is what the layer computed in step 3 of a loop."""
    if name is None:
        return "loss", written.output
    if not isinstance(name, str) or not _numbered(name):
        label, node = value_named(loss, name, written.output)
        return label, written.known.get(node, node)
    labels = _labels(Moment(Tensor(loss)), written)
    known = {labels.where(node): node for node in labels.ends}
    if name not in known:
        path = re.split("[@#]", name)[0]
        near = [each for each in known if re.split("[@#]", each)[0] == path] or list(known)
        listed = ", ".join(near[:NEAR]) or "there are no layers"
        raise KeyError(f"no layer has a value called {name!r}{at_user_line()}, but {listed}")
    return name, known[name]


def _numbered(name: str) -> bool:
    """Whether a name is one of several values of a layer: "cell@3", "block#2"."""
    return "@" in name or "#" in name


def _gradient(moment: Moment, written: Unrolled, at: Element, label: str, most: int) -> Explanation:
    check_backward(moment.loss.node, seeded=False)
    book = Book(written.output, [at.node], _labels(moment, written))
    if at.node not in book.adjoint.cotangents:
        raise GradientError(f"no derivative flows from this loss to {label}{at_user_line()}")
    return Number(book, *at).opened(label, most)


def _activation(moment: Moment, written: Unrolled, at: Element, label: str, most: int) -> Explanation:
    if not at.node.floating:
        raise DTypeError(f"{label} is of {at.node.dtype}{at_user_line()}: only floating-point numbers open")
    return Making(written.output, _labels(moment, written)).opened(at, label, most)


def _labels(moment: Moment, written: Unrolled) -> Labels:
    leaves = {leaf: name for name, leaf in leaves_of(moment.loss.node).items()}
    rows = Rows([written.output], moment.rows) if moment.rows else None
    return Labels(leaves, written.times, ends_of(written.output, written.times), rows)
