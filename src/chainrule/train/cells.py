"""Cells of a training: those of an optimizer, named by where they stand in it; whether a state fits them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from chainrule.errors import RunError
from chainrule.ops import as_array
from chainrule.tensor import Buffer, Cell
from chainrule.tree import Structure, flatten
from chainrule.types import type_of


def state_cells(state: Any) -> tuple[list[Buffer], Structure]:
    """A cell for every leaf of nested dicts and lists, "optimizer.mean.0.weight"; and their structure."""
    leaves, structure = flatten(state)
    cells = []
    for leaf, path in zip(leaves, _paths(state), strict=True):
        cell = Buffer(leaf)
        cell.name = f"optimizer.{path}"
        cells.append(cell)
    return cells, structure


def _paths(tree: Any, prefix: str = "") -> list[str]:
    """Dotted paths of the leaves, in the order of `flatten`."""
    if isinstance(tree, dict):
        return [path for key, value in tree.items() for path in _paths(value, f"{prefix}{key}.")]
    if isinstance(tree, list | tuple):
        return [path for k, value in enumerate(tree) for path in _paths(value, f"{prefix}{k}.")]
    return [] if tree is None else [prefix.rstrip(".")]


def check_fits(cells: Mapping[str, Cell], state: Mapping[str, Any]) -> None:
    """Raise `RunError` unless there is a value of the right type for every cell, and no other."""
    if set(cells) != set(state):
        missing, extra = sorted(set(cells) - set(state)), sorted(set(state) - set(cells))
        raise RunError(
            f"the saved state does not fit this trainer: missing {missing or 'none'}, unexpected "
            f"{extra or 'none'}"
        )
    for name, cell in cells.items():
        given = as_array(state[name])
        if type_of(given) != cell.type:
            raise RunError(
                f"the saved state does not fit this trainer: {name} is {type_of(given)}, not {cell.type}"
            )
