"""The network as a table: one row per layer, with output shape and parameter count."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from chainrule.nn.module import Frozen, Module, observing
from chainrule.tensor import Cell, Parameter, Tensor
from chainrule.trace import trace_program
from chainrule.tree import flatten, unflatten
from chainrule.types import Type, type_of


class Row(NamedTuple):
    """One layer. `output_shape` is None for a layer that was not called; `frozen` counts untrained ones."""

    path: str
    kind: str
    output_shape: tuple[int, ...] | None
    parameters: int
    frozen: int = 0


@dataclass(frozen=True)
class Summary:
    """The layers of a model in order; `str` draws them as a table."""

    model: str
    rows: tuple[Row, ...]

    @property
    def parameters(self) -> int:
        """Trained and frozen parameters together, tied ones once."""
        return sum(row.parameters for row in self.rows)

    @property
    def frozen(self) -> int:
        """Parameters that are frozen."""
        return sum(row.frozen for row in self.rows)

    def __str__(self) -> str:
        cells = [("layer", "kind", "output", "parameters")]
        cells += [
            (row.path or self.model, row.kind, _shape_text(row.output_shape), _count_text(row.parameters))
            for row in self.rows
        ]
        widths = [max(len(row[column]) for row in cells) for column in range(4)]
        lines = [_line(row, widths) for row in cells]
        lines.insert(1, "  ".join("─" * width for width in widths))
        frozen = f", {self.frozen:,} of them frozen" if self.frozen else ""
        return "\n".join([*lines, f"{self.model}: {self.parameters:,} parameters{frozen}"])


def summary(model: Module, *inputs: Any) -> Summary:
    """One row per layer that `model` has, for inputs of the given types.

    Each input is a shape (a tuple; the dtype is the model's), a `Type`, an array, or a container of these.
    The model is traced, not run: no buffer changes and no large array is made.

    >>> import chainrule as cr
    >>> model = cr.nn.Sequential(cr.nn.Linear(8, 16), cr.nn.ReLU(), cr.nn.Linear(16, 1))
    >>> print(cr.nn.summary(model, (64, 8)))
    layer  kind    output    parameters
    ─────  ──────  ────────  ──────────
    0      Linear  (64, 16)         144
    1      ReLU    (64, 16)           0
    2      Linear  (64, 1)           17
    Sequential: 161 parameters
    """
    dtype = next((cell.dtype for cell in model.parameters() if cell.dtype.kind == "f"), np.dtype(np.float32))
    leaves, structure = flatten([_stand_in(each, dtype) for each in inputs])
    outputs: dict[Module, tuple[int, ...]] = {}

    def note(module: Module, output: Any) -> None:
        shapes = [leaf.shape for leaf in flatten(output)[0] if isinstance(leaf, Tensor)]
        if shapes:
            outputs[module] = shapes[0]

    modes = {module: module.training for module in model.modules()}
    model.eval()  # one row is enough for a BatchNorm in evaluation
    try:
        with observing(note):
            trace_program(
                lambda *tensors: model(*unflatten(structure, tensors)), [type_of(leaf) for leaf in leaves]
            )
    finally:
        for module, mode in modes.items():
            module.training = mode
    return Summary(type(model).__name__, tuple(_rows(model, outputs)))


def _rows(model: Module, outputs: dict[Module, tuple[int, ...]]) -> list[Row]:
    """Modules without modules inside, and those that hold cells of their own."""
    rows: list[Row] = []
    seen: set[Cell] = set()
    for path, module in model.named_modules():
        below = [cell for child in module.children() for _, cell in child._named(Cell)]
        own = {cell for _, cell in module._named(Cell)} - set(below)
        if next(module.children(), None) is not None and not own:
            continue
        trained = [cell for cell in own - seen if isinstance(cell, Parameter)]
        resting = [cell for cell in own - seen if isinstance(cell, Frozen)]
        seen |= own
        frozen = sum(cell.size for cell in resting)
        count = sum(cell.size for cell in trained) + frozen
        rows.append(Row(path, type(module).__name__, outputs.get(module), count, frozen))
    return rows


def _stand_in(given: Any, dtype: np.dtype[Any]) -> Any:
    """Arrays of the right types that cost no memory."""
    if isinstance(given, Type):
        return np.broadcast_to(np.zeros((), given.dtype), given.shape)
    if isinstance(given, dict):
        return {key: _stand_in(each, dtype) for key, each in given.items()}
    if isinstance(given, tuple) and all(isinstance(extent, int) for extent in given):
        return np.broadcast_to(np.zeros((), dtype), given)
    if isinstance(given, list | tuple):
        return [_stand_in(each, dtype) for each in given]
    return given


def _line(row: tuple[str, ...], widths: list[int]) -> str:
    *texts, count = row
    padded = [text.ljust(width) for text, width in zip(texts, widths, strict=False)]
    return "  ".join([*padded, count.rjust(widths[-1])])


def _shape_text(shape: tuple[int, ...] | None) -> str:
    return "not called" if shape is None else str(shape)


def _count_text(count: int) -> str:
    return f"{count:,}"
