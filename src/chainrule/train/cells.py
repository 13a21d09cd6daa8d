"""The state of an optimizer as cells, named by where they stand in it."""

from __future__ import annotations

from typing import Any

from chainrule.tensor import Buffer
from chainrule.tree import Structure, flatten


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
