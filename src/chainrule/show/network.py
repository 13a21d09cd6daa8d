"""The network as a table: its layers in order, what they put out, and where the parameters are."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from chainrule.nn import Module, summary
from chainrule.show.figures import count

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Layer:
    """One line of the table.

    output   the shape of what it puts out for one row, None where it cannot be known
    weights  the shapes of its own parameters; a tied one is told at its first layer
    """

    path: str
    kind: str
    output: Shape | None
    weights: tuple[Shape, ...]

    @property
    def parameters(self) -> int:
        """How many numbers are trained in this layer."""
        return sum(math.prod(shape) for shape in self.weights)

    def output_text(self) -> str:
        """``rows × 128``."""
        return "" if self.output is None else " × ".join(["rows", *map(str, self.output)])

    def weights_text(self) -> str:
        """``128×275 + 128``."""
        return " + ".join("×".join(map(str, shape)) or "1" for shape in self.weights)


def layers(model: Module, example: Any) -> list[Layer]:
    """The layers of a model that compute or hold parameters; containers are left out.

    `example` is an input of any number of rows, from which the shapes of the outputs are found.

    >>> import chainrule as cr
    >>> model = cr.nn.Sequential(cr.nn.Linear(8, 16), cr.nn.Dropout(0.2), cr.nn.Linear(16, 1))
    >>> for layer in layers(model, cr.ones((3, 8))):
    ...     print(layer.path, layer.kind, "|", layer.output_text(), "|", layer.weights_text())
    0 Linear | rows × 16 | 16×8 + 16
    1 Dropout p=0.2 | rows × 16 |
    2 Linear | rows × 1 | 1×16 + 1
    """
    modules = dict(model.named_modules())
    weights = _by_layer({path: parameter.shape for path, parameter in model.named_parameters()})
    return [
        Layer(
            row.path or "model",
            _kind(modules[row.path]),
            None if row.output_shape is None else row.output_shape[1:],
            tuple(weights.get(row.path, ())),
        )
        for row in summary(model, example).rows
        if row.parameters or row.output_shape is not None
    ]


def layers_of_model(model: Module) -> list[Layer]:
    """The layers of a model of which nobody knows what it reads: without the shapes that they put out."""
    weights = _by_layer({path: parameter.shape for path, parameter in model.named_parameters()})
    return [
        Layer(path or "model", _kind(module), None, tuple(weights.get(path, ())))
        for path, module in model.named_modules()
        if path in weights or not any(True for _ in module.children())
    ]


def layers_of_weights(weights: Mapping[str, Shape]) -> list[Layer]:
    """What can be told of a network whose code is not at hand, from its arrays by path."""
    in_order = dict(sorted(weights.items(), key=lambda entry: (_natural(entry[0]), -len(entry[1]))))
    return [Layer(path or "model", "", None, tuple(own)) for path, own in _by_layer(in_order).items()]


def total(found: Iterable[Layer]) -> int:
    """Parameters of all layers together."""
    return sum(layer.parameters for layer in found)


def outline(inputs: int, found: Iterable[Layer]) -> str:
    """The widths from the inputs to the outputs, with the number of parameters.

    >>> import chainrule as cr
    >>> model = cr.nn.Sequential(cr.nn.Linear(8, 16), cr.nn.ReLU(), cr.nn.Linear(16, 1))
    >>> outline(8, layers(model, cr.ones((3, 8))))
    '8 → 16 → 1, 161 parameters'
    """
    chain = list(found)
    widths = [count(layer.weights[0][0]) for layer in chain if layer.kind == "Linear"]
    return " → ".join([count(inputs), *widths]) + f", {count(total(chain))} parameters"


def _by_layer(weights: Mapping[str, Shape]) -> dict[str, list[Shape]]:
    grouped: dict[str, list[Shape]] = {}
    for path, shape in weights.items():
        grouped.setdefault(path.rpartition(".")[0], []).append(shape)
    return grouped


def _natural(path: str) -> list[tuple[int, str]]:
    """The layer of a path, in an order that has layer 2 before layer 10."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in path.split(".")[:-1]]


def _kind(module: Module) -> str:
    """The class, with the numbers it was made with unless they can be read off its weights."""
    told = [type(module).__name__]
    if not any(True for _ in module.parameters()):
        told += [f"{name}={value}" for name, value in vars(module).items() if type(value) in (int, float)]
    return " ".join(told)
