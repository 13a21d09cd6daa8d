"""What a training step tells of itself: facts about its arrays, computed in the step.

    facts     of every activation, error, weight, gradient and update: sums of squares, of elements, of zeros
              and of what is not finite, and the largest size
    pictures  histograms of sizes by powers of two, and for every unit how often an error reaches it

The error of a layer is the derivative of the loss by what it computes. A step computes these only when it is
asked for them (`Rates`): the others are as fast as if nobody wanted to know. The numbers come back as rows;
`Column` says what is where.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import count
from typing import Any, NamedTuple

import numpy as np

from chainrule.graph import Node
from chainrule.nn import Dropout, Module
from chainrule.ops import as_node, ops
from chainrule.origin import Origin, because
from chainrule.tensor import Parameter, Tensor
from chainrule.train.rates import FACTS, NORMS, PICTURES


class Column(NamedTuple):
    """Some numbers that a step gives back.

    kind   "layer" or "parameter" for facts, "histogram" or "liveness" for pictures
    name   path of the layer or parameter; of a histogram what is counted, such as "activation of 0"
    field  which fact, such as "error_mean"; "" for pictures
    width  how many numbers
    size   what they are divided by, to be a mean or a share; 1 for others
    """

    kind: str
    name: str
    field: str
    width: int
    size: float


EXPONENTS = tuple(range(-32, 15))
"""log2 of the lower edges of a histogram's bins. What is smaller than all is in the first."""
_EDGES = np.array([2.0**-126, *(2.0**k for k in EXPONENTS)], np.float32)  # below the first: zero
_NEAR = 0.01
"""How near to an end of its range, as a share of it, the output of a bounded function counts as saturated."""
_BOUNDS = {"tanh": (-1.0, 1.0), "sigmoid": (0.0, 1.0)}


@dataclass(eq=False)
class Told:
    """Facts and pictures of one step, as nodes, and the columns in which they come back."""

    squares: list[Node]
    facts: list[Node]
    pictures: list[Node]
    columns: dict[int, list[Column]]

    @classmethod
    def nothing(cls) -> Told:
        """What a step tells when nobody wants to know."""
        return cls([], [], [], {NORMS: [], FACTS: [], PICTURES: []})

    def norms(self, gradients: Mapping[str, Any]) -> None:
        """Tell of every gradient, at every step: the norm of them all needs these sums anyway."""
        for name, gradient in gradients.items():
            with because(Origin("update", name)):
                self.squares.append(ops.sum(ops.square(as_node(gradient))))
            self.columns[NORMS].append(Column("parameter", name, "gradient_norm", 1, 1))

    def layer(self, name: str, activation: Node, error: Node | None) -> None:
        """Tell of a layer."""
        self._array("layer", name, "activation", activation)
        self._histogram(f"activation of {name}", activation)
        if error is not None:
            self._array("layer", name, "error", error)
            self._histogram(f"error of {name}", error)
            self._liveness(name, error)

    def parameter(self, name: str, gradient: Any, weight: Any, update: Any) -> None:
        """Tell of a parameter: its gradient before clipping, its new value, and what was added to the old."""
        for field, value in (("gradient", gradient), ("weight", weight), ("update", update)):
            self._array("parameter", name, field, as_node(value))
        self._histogram(f"gradient of {name}", as_node(gradient))
        self._histogram(f"weight of {name}", as_node(weight))

    # -- one array -------------------------------------------------------------------------------------------
    def _array(self, kind: str, name: str, field: str, array: Node) -> None:
        bounds = _inside(array) if field == "activation" else None
        low, high = bounds or (-np.inf, np.inf)
        told = {
            "norm": 1, "mean": array.size, "max": 1, "zero": array.size, "nonfinite": 1,
            "saturated" if bounds else "": array.size,
        }  # fmt: skip
        self.facts.append(ops.tally(array, low, high))
        self.columns[FACTS] += [
            Column(kind, name, f"{field}_{each}" if each else "", 1, size) for each, size in told.items()
        ]

    def _histogram(self, name: str, array: Node) -> None:
        """How many elements are at least as large as each edge."""
        edges = ops.constant(_EDGES, array.dtype)
        at_least = ops.greater_equal(ops.reshape(ops.abs(array), (*array.shape, 1)), edges)
        one, zero = ops.constant(1, array.dtype), ops.constant(0, array.dtype)
        counts = ops.sum(ops.where(at_least, one, zero), axis=tuple(range(array.ndim)))
        self._picture(Column("histogram", name, "", len(_EDGES), array.size), counts)

    def _liveness(self, name: str, error: Node) -> None:
        """The share of places of the batch at which an error reaches each unit."""
        unit = 1 if error.ndim > 3 else error.ndim - 1
        others = tuple(axis for axis in range(error.ndim) if axis != unit)
        if error.ndim < 2:
            return
        places = error.size // max(1, error.shape[unit])
        self._picture(
            Column("liveness", name, "", error.shape[unit], max(1, places)),
            _count(ops.not_equal(error, 0), error, others),
        )

    def _picture(self, column: Column, node: Node) -> None:
        self.pictures.append(node)
        self.columns[PICTURES].append(column)


def _count(condition: Node, like: Node, axis: tuple[int, ...] | None = None) -> Node:
    one, zero = ops.constant(1, like.dtype), ops.constant(0, like.dtype)
    return ops.sum(ops.where(condition, one, zero), axis=axis)


def _inside(activation: Node) -> tuple[float, float] | None:
    """Between which numbers the output of a bounded function is not saturated; None for others."""
    bounds = _BOUNDS.get(activation.name)
    if bounds is None:
        return None
    low, high = bounds
    near = _NEAR * (high - low)
    return low + near, high - near


# -- layers --------------------------------------------------------------------------------------------------
@dataclass
class Layer:
    """A layer in one step: what it computes, at which its error is taken, and what it hands on.

    The two differ where a function follows that has no parameters and works element by element.
    """

    computed: Node
    activation: Node


class Layers:
    """Takes note of the layers of a model while it runs (see `nn.module.observing`).

    A layer is a module with parameters of its own; a function after it, such as ReLU, belongs to it. One that
    follows something else has a row of its own.
    """

    def __init__(self, model: Module) -> None:
        self._paths = {module: path for path, module in model.named_modules()}
        self.rows: dict[str, Layer] = {}

    def __call__(self, module: Module, output: Any) -> None:
        path = self._paths.get(module)
        if path is None or not isinstance(output, Tensor) or not output.node.floating or output.size < 2:
            return
        node = output.node
        if any(isinstance(each, Parameter) for each in vars(module).values()):
            self._add(path or type(module).__name__, node)
        elif _is_function(module, node):
            sources = _sources(node, {row.activation for row in self.rows.values()})
            row = next((row for row in self.rows.values() if {row.activation} == sources), None)
            if row is None:
                self._add(path, node)
            else:
                row.activation = node

    def _add(self, path: str, node: Node) -> None:
        names = (path if k == 1 else f"{path} ({k})" for k in count(1))
        self.rows[next(name for name in names if name not in self.rows)] = Layer(node, node)

    def within(self, trace: Any) -> dict[str, Layer]:
        """Those computed in a trace; what belongs to a loop or a checkpoint inside of it is not to be had."""
        return {
            name: row
            for name, row in self.rows.items()
            if row.computed.trace is trace and row.activation.trace is trace
        }


def _is_function(module: Module, output: Node) -> bool:
    """True for a module without modules inside that worked element by element, and drew no numbers."""
    inside = next(module.children(), None) is not None or isinstance(module, Dropout)
    return not inside and output.primitive is not None and output.primitive.elementwise


def _sources(node: Node, known: set[Node]) -> set[Node | None]:
    """The known nodes from which elementwise work alone leads to `node`; None stands for anything else."""
    found: set[Node | None] = set()
    pending, seen = [node], {node}
    while pending:
        here = pending.pop()
        if here in known:
            found.add(here)
        elif here.primitive is not None and here.primitive.elementwise:
            pending += [each for each in here.operands if each not in seen]
            seen.update(here.operands)
        elif here.primitive is not None or here.value is None:
            found.add(None)
    return found
