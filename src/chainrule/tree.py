"""Nested containers of arrays: dict, list, tuple, named tuple and None, taken apart and put together.

Anything else is a leaf. A structure is hashable, so that it can be part of a cache key.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

from chainrule.errors import ShapeError
from chainrule.origin import at_user_line


class Structure(NamedTuple):
    """The shape of a nested container without its leaves."""

    kind: Any  # the container's class, or None for a leaf
    keys: tuple[Any, ...] = ()
    children: tuple[Structure, ...] = ()

    @property
    def leaves(self) -> int:
        """Number of leaves."""
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


def flatten_as(structure: Structure, value: Any, what: str) -> list[Any]:
    """The leaves of `value`, which must have `structure`; dict entries may come in any order.

    Raises `ShapeError`, beginning with `what` and naming the place where the two part.
    """
    leaves: list[Any] = []
    _match(structure, value, what, "", leaves)
    return leaves


def _match(structure: Structure, value: Any, what: str, path: str, leaves: list[Any]) -> None:
    kind = structure.kind
    if kind is None:
        if isinstance(value, dict | list | tuple):
            raise _differs(f"{what} has a {type(value).__name__}{_at(path)} where one array belongs")
        leaves.append(value)
    elif kind is dict:
        if not isinstance(value, dict) or value.keys() != set(structure.keys):
            keys = f"a dict of {', '.join(map(repr, structure.keys))}"
            raise _differs(f"{what} needs {keys}{_at(path)}, not {_sketch(value)}")
        for key, child in zip(structure.keys, structure.children, strict=True):
            _match(child, value[key], what, f"{path}[{key!r}]", leaves)
    elif kind is type(None):
        if value is not None:
            raise _differs(f"{what} has a {type(value).__name__}{_at(path)} where there is None")
    else:
        if not isinstance(value, list | tuple) or len(value) != len(structure.children):
            wanted = f"a {kind.__name__} of {len(structure.children)}"
            raise _differs(f"{what} needs {wanted}{_at(path)}, not {_sketch(value)}")
        for index, child in enumerate(structure.children):
            _match(child, value[index], what, f"{path}[{index}]", leaves)


def _differs(message: str) -> ShapeError:
    return ShapeError(f"{message}{at_user_line()}")


def _at(path: str) -> str:
    return f" at {path}" if path else ""


def _sketch(value: Any) -> str:
    if isinstance(value, dict):
        return f"a dict of {', '.join(map(repr, value))}"
    if isinstance(value, list | tuple):
        return f"a {type(value).__name__} of {len(value)}"
    return "None" if value is None else f"one {type(value).__name__}"


def tree_map(function: Callable[..., Any], tree: Any, *others: Any) -> Any:
    """`function` applied to corresponding leaves.

    >>> from chainrule.tree import tree_map
    >>> tree_map(lambda a, b: a + b, {"w": 1, "b": [2]}, {"w": 10, "b": [20]})
    {'w': 11, 'b': [22]}
    """
    leaves, structure = flatten(tree)
    columns = [flatten_as(structure, each, "another tree") for each in others]
    return unflatten(structure, [function(*row) for row in zip(leaves, *columns, strict=True)])
