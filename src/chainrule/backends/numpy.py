"""The reference backend: one NumPy call per node."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from chainrule.graph import Graph

Executable = Callable[[Sequence[Any]], list[Any]]


def compile_graph(graph: Graph) -> Executable:
    """A function from the values of the graph's inputs to the values of its outputs."""

    def run(values: Sequence[Any]) -> list[Any]:
        return [np.asarray(each) for each in graph.evaluate(np, *values)]

    return run
