"""chainrule: a backpropagation engine you can see through."""

from __future__ import annotations

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

# Public name → module it lives in; everything is imported when it is first asked for.
_HOMES = {
    "Tensor": "tensor",
    "asarray": "tensor",
    "no_grad": "ops",
    "scope": "origin",
    "grad": "transform",
    "value_and_grad": "transform",
    "vjp": "transform",
    "jvp": "transform",
    "jacobian": "transform",
    "hessian": "transform",
    "stop_gradient": "transform",
    "checkpoint": "control",
    "custom_vjp": "control",
    "scan": "loops",
    "vmap": "batching",
    "compile": "program",
    "zeros": "creation",
    "ones": "creation",
    "full": "creation",
    "arange": "creation",
    "linspace": "creation",
    "eye": "creation",
    "zeros_like": "creation",
    "ones_like": "creation",
    "full_like": "creation",
    "explain": "insight.explain",
    "first_bad_number": "insight.bad_number",
    "ledger": "insight.ledger",
    "sensitivity": "insight.sensitivity",
    "steps": "insight.steps",
    "what_if": "insight.sensitivity",
    "Trainer": "train",
    "fit": "train",
    "Recipe": "recipe",
    "Run": "train",
}
_MODULES = (
    "nn",
    "optim",
    "random",
    "data",
    "train",
    "recipe",
    "run",
    "errors",
    "laws",
    "tree",
    "show",
    "cli",
)
_CONSTANTS = (
    "float32",
    "float64",
    "int32",
    "int64",
    "uint8",
    "uint32",
    "bool",
    "pi",
    "e",
    "inf",
    "nan",
    "newaxis",
)


def _find(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f"chainrule.{_HOMES[name]}"), name)
    if name in _MODULES:
        return import_module(f"chainrule.{name}")
    if name in _CONSTANTS:
        return getattr(import_module("numpy"), name)
    if name in import_module("chainrule.primitives").REGISTRY:
        functions = import_module("chainrule.functions").FUNCTIONS
        if name in functions:
            return functions[name]
    raise AttributeError(f"module 'chainrule' has no attribute {name!r}")


def __getattr__(name: str) -> Any:
    if name.startswith("__"):
        raise AttributeError(name)
    found = globals()[name] = _find(name)
    return found


def __dir__() -> list[str]:
    return sorted(
        {*_HOMES, *_MODULES, *_CONSTANTS, *import_module("chainrule.functions").FUNCTIONS, "__version__"}
    )
