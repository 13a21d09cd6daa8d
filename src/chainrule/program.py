"""`cr.compile`: a function traced once per combination of shapes and dtypes, and run by a backend."""

from __future__ import annotations

import warnings
from collections import OrderedDict
from collections.abc import Callable
from functools import update_wrapper
from threading import Lock
from typing import Any

import numpy as np

from chainrule.backends import numpy as reference
from chainrule.graph import ABSTRACT, PLAIN, constant
from chainrule.ops import as_node
from chainrule.tensor import Tensor
from chainrule.trace import Program, trace_program
from chainrule.tree import flatten, tree_map, unflatten

BACKENDS: dict[str, Callable[..., reference.Executable]] = {"numpy": reference.compile_graph}
_KEPT = 64
_MANY = 8


class Compiled:
    """A function that runs as one graph; the same values as calling it eagerly.

    Arrays in the arguments are inputs of the graph; Python numbers, strings and modules are part of the
    specialisation. Parameters and buffers that the function reads or assigns become inputs and outputs.
    """

    def __init__(self, function: Callable[..., Any], backend: str = "numpy") -> None:
        if backend not in BACKENDS:
            raise ValueError(f"there is no backend {backend!r}: choose one of {', '.join(BACKENDS)}")
        self.function = function
        self.backend = backend
        self._specialisations: OrderedDict[Any, tuple[Program, reference.Executable]] = OrderedDict()
        self._lock = Lock()
        update_wrapper(self, function)

    def __call__(self, *arguments: Any) -> Any:
        leaves, structure = flatten(arguments)
        dynamic = [isinstance(leaf, Tensor | np.ndarray | np.generic) for leaf in leaves]
        nodes = [as_node(leaf) for leaf, moves in zip(leaves, dynamic, strict=True) if moves]
        if any(node.status == ABSTRACT for node in nodes):
            return self.function(*arguments)  # already inside a trace: be part of it
        static = tuple(leaf if not moves else None for leaf, moves in zip(leaves, dynamic, strict=True))
        key = (structure, static, tuple(map(type, static)), tuple(node.type for node in nodes))
        program, run = self._specialised(key, leaves, dynamic, structure, [node.type for node in nodes])
        results = program.results(run(program.arrays([node.value for node in nodes])))
        return tree_map(_plain, results)

    def _specialised(self, key: Any, leaves: Any, dynamic: Any, structure: Any, types: Any) -> Any:
        with self._lock:
            found = self._specialisations.get(key)
            if found is not None:
                self._specialisations.move_to_end(key)
                return found

            def of_tensors(*tensors: Tensor) -> Any:
                given = iter(tensors)
                filled = [next(given) if moves else leaf for leaf, moves in zip(leaves, dynamic, strict=True)]
                return self.function(*unflatten(structure, filled))

            program = trace_program(of_tensors, types)
            self._specialisations[key] = program, BACKENDS[self.backend](program.graph)
            if len(self._specialisations) == _MANY:
                warnings.warn(
                    f"{getattr(self.function, '__name__', 'a function')} was compiled for the {_MANY}th combination of shapes, "
                    "dtypes and Python arguments; pad batches to one shape, or pass numbers that change as arrays",
                    stacklevel=4,
                )
            if len(self._specialisations) > _KEPT:
                self._specialisations.popitem(last=False)
            return self._specialisations[key]

    def show(self, what: str = "graph") -> str:
        """The graphs traced so far, as text."""
        if what != "graph":
            raise ValueError(f"show({what!r}): the numpy backend can show only 'graph'")
        return "\n\n".join(str(program.graph) for program, _ in self._specialisations.values())


def compile(function: Callable[..., Any] | None = None, *, backend: str = "numpy") -> Any:
    """Trace `function` into one graph per combination of shapes and dtypes and run it with `backend`.

    >>> import chainrule as cr
    >>> double = cr.compile(lambda x: 2.0 * x)
    >>> double(cr.asarray([1.0, 2.0])).tolist()
    [2.0, 4.0]
    """
    if function is None:
        return lambda decorated: Compiled(decorated, backend)
    return Compiled(function, backend)


def _plain(value: Any) -> Tensor:
    node = constant(np.asarray(value))
    node.status = PLAIN if node.floating else 0
    return Tensor(node)
