"""chainrule for a harness outside this project, which loads this file by its path and calls `make`.

Such a harness has a module `specs` with the order of batches and the start weights that its peers share. They
are those of `benchmarks.specs`, which draws an epoch of them at a time; that they still are is checked here.
"""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

ROOT = str(Path(__file__).resolve().parent.parent)
if ROOT not in sys.path:
    sys.path.append(ROOT)


def make(spec: Any, X: Any, y: Any, variant: str, mode: str) -> Any:
    """An object with `run(n)`: n steps (or evaluations) of this workload, returning the last loss."""
    theirs, ours = import_module("specs"), import_module("benchmarks.specs")
    own = ours.find(spec.name)
    shared = [(theirs.Order(spec).block(2), ours.Order(own).block(2))]
    if spec.kind == "mlp":
        layers = zip(theirs.mlp_params(spec), ours.mlp_params(own), strict=True)
        shared += [pair for layer in layers for pair in zip(*layer, strict=True)]
    if not all(np.array_equal(*pair) for pair in shared):
        raise ValueError(
            f"{spec.name}: the harness's batches or start weights are not those of benchmarks/specs.py"
        )
    return import_module("benchmarks.workloads").make(own, X, y, variant, mode)
