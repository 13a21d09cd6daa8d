"""Nested containers of arrays: dict, list, tuple, named tuple and None, taken apart and put together.

Anything else is a leaf. A structure is hashable, so that it can be part of a cache key.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple


class Structure(NamedTuple):
    """The shape of a nested container without its leaves."""

    kind: Any  # the container's class, or None for a leaf
    keys: tuple[Any, ...] = ()
    children: tuple[Structure, ...] = ()

    @property
    def leaves(self) -> int:
        return 1 if self.kind is None else sum(each.leaves for each in self.children)


LEAF = Structure(None)
_NOTHING = Structure(type(None))


def flatten(value: Any) -> tuple[list[Any], Structure]:
    """The leaves of `value`, dict entries in insertion order, and the structure that holds them."""
    leaves: list[Any] = []
    return leaves, _take_apart(value, leaves)


def _take_apart(value: Any, leaves: list[Any]) -> Structure:
    if value is None:
        return _NOTHING
    if isinstance(value, dict):
        return Structure(dict, tuple(value), tuple(_take_apart(each, leaves) for each in value.values()))
    if isinstance(value, list | tuple):
        return Structure(type(value), (), tuple(_take_apart(each, leaves) for each in value))
    leaves.append(value)
    return LEAF


def unflatten(structure: Structure, leaves: Iterable[Any]) -> Any:
    """The container that `flatten` took apart, with other leaves."""
    return _put_together(structure, iter(leaves))


def _put_together(structure: Structure, leaves: Iterator[Any]) -> Any:
    kind = structure.kind
    if kind is None:
        return next(leaves)
    if kind is type(None):
        return None
    children = [_put_together(each, leaves) for each in structure.children]
    if kind is dict:
        return dict(zip(structure.keys, children, strict=True))
    return kind(*children) if hasattr(kind, "_fields") else kind(children)


def tree_map(function: Callable[..., Any], tree: Any, *others: Any) -> Any:
    """`function` applied to corresponding leaves.

    >>> from chainrule.tree import tree_map
    >>> tree_map(lambda a, b: a + b, {"w": 1, "b": [2]}, {"w": 10, "b": [20]})
    {'w': 11, 'b': [22]}
    """
    leaves, structure = flatten(tree)
    columns = [flatten(each)[0] for each in others]
    return unflatten(structure, [function(*row) for row in zip(leaves, *columns, strict=True)])
