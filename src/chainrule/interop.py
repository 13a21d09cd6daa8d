"""NumPy's functions on Tensors, and a sentence for habits from NumPy and PyTorch that work differently here.

``np.sin(t)`` and ``np.concatenate([a, t])`` become the operations of the same name, so code written for NumPy
can be differentiated. A NumPy function without a counterpart is computed on the values; where that would
lose a derivative that is being taken, or where there is no value yet, it raises instead.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from chainrule.errors import ChainruleError, GradientError, ShapeError
from chainrule.graph import ABSTRACT, ACTIVE, Node
from chainrule.ops import Weak, as_node, escaped, ops
from chainrule.origin import at_user_line
from chainrule.primitives import REGISTRY
from chainrule.tree import flatten, tree_map

# NumPy's name → ours, where they differ.
RENAMED = {
    "absolute": "abs", "fabs": "abs", "arccos": "acos", "arccosh": "acosh", "arcsin": "asin",
    "arcsinh": "asinh", "arctan": "atan",
    "arctan2": "atan2", "arctanh": "atanh", "invert": "bitwise_invert", "power": "pow",
    "left_shift": "bitwise_left_shift", "right_shift": "bitwise_right_shift", "rint": "round",
    "true_divide": "divide", "expit": "sigmoid",
    "around": "round", "amax": "max", "amin": "min", "cumsum": "cumulative_sum", "concatenate": "concat",
}  # fmt: skip


def _dot(a: Any, b: Any) -> Node:
    left, right = (() if isinstance(each, Weak) else as_node(each).shape for each in (a, b))
    if len(left) > 2 or len(right) > 2:
        raise ShapeError(f"np.dot of shapes {left} and {right}{at_user_line()}: use cr.matmul")
    return ops.matmul(a, b) if left and right else ops.multiply(a, b)


def _transpose(x: Any, axes: Any = None) -> Node:
    return ops.permute_dims(x, tuple(reversed(range(as_node(x).ndim))) if axes is None else axes)


def _swapaxes(x: Any, axis1: int, axis2: int) -> Node:
    order = list(range(as_node(x).ndim))
    order[axis1], order[axis2] = order[axis2], order[axis1]
    return ops.permute_dims(x, order)


def _with_ddof(name: str) -> Callable[..., Node]:
    """NumPy's `var` or `std`, which call the correction `ddof`."""

    def deviation(x: Any, axis: Any = None, *, ddof: float = 0, keepdims: bool = False) -> Node:
        deviated: Node = getattr(ops, name)(x, axis=axis, correction=ddof, keepdims=keepdims)
        return deviated

    return deviation


def _filled(value: float) -> Callable[..., Node]:
    return lambda x: ops.full(as_node(x).type, value)


# NumPy functions that are said differently here.
SPELLED: dict[str, Callable[..., Any]] = {
    "dot": _dot,
    "transpose": _transpose,
    "swapaxes": _swapaxes,
    "ravel": lambda x: ops.reshape(x, (-1,)),
    "var": _with_ddof("var"),
    "std": _with_ddof("std"),
    "zeros_like": _filled(0),
    "ones_like": _filled(1),
    "shape": lambda x: as_node(x).shape,
    "ndim": lambda x: as_node(x).ndim,
    "size": lambda x: as_node(x).size,
}


def numpy_ufunc(function: Any, method: str, inputs: Sequence[Any], options: Mapping[str, Any]) -> Any:
    """A NumPy ufunc (or SciPy's `erf`, `expit`) on Tensors."""
    name = RENAMED.get(function.__name__, function.__name__)
    if options.get("out") is not None:
        raise GradientError(
            f"np.{function.__name__} cannot write into out={at_user_line()}: a Tensor is immutable, and an "
            "array that takes its value would lose the derivative. Use the result instead"
        )
    if method == "__call__" and name in REGISTRY and not options:
        return getattr(ops, name)(*inputs)
    called = function if method == "__call__" else getattr(function, method)
    return on_values(called, f"np.{function.__name__}", inputs, options)


def numpy_function(called: Callable[..., Any], inputs: Sequence[Any], options: Mapping[str, Any]) -> Any:
    """Any other NumPy function on Tensors."""
    name = called.__name__
    ours = SPELLED.get(name)
    if ours is None and called is getattr(np, name, None):
        renamed = RENAMED.get(name, name)
        ours = getattr(ops, renamed) if renamed in REGISTRY else None
    if ours is None:
        module = called.__module__.replace("numpy", "np", 1)
        return on_values(called, f"{module}.{name}", inputs, options)
    try:
        return ours(*inputs, **options)
    except ChainruleError:
        raise
    except TypeError:  # arguments that only NumPy's function takes
        return on_values(called, f"np.{name} with these arguments", inputs, options)


def on_values(
    called: Callable[..., Any], what: str, inputs: Sequence[Any], options: Mapping[str, Any]
) -> Any:
    """NumPy's own function on the values; raises where that would lose a derivative or has no values."""
    statuses: list[int] = []

    def value(leaf: Any) -> Any:
        node = getattr(leaf, "node", None)
        if not isinstance(node, Node):
            return leaf
        statuses.append(node.status)
        return node.value

    arguments, keywords = tree_map(value, (list(inputs), dict(options)))
    if ABSTRACT in statuses:
        raise escaped(what)
    result = called(*arguments, **keywords)
    if ACTIVE in statuses and any(isinstance(leaf, float) or _floating(leaf) for leaf in flatten(result)[0]):
        raise GradientError(
            f"{what} has no counterpart in chainrule{at_user_line()}, so the derivative that is being taken "
            "would be lost. Write it with cr functions, or pass x.numpy() where no derivative is wanted"
        )
    return result


def _floating(value: Any) -> bool:
    return isinstance(value, np.ndarray | np.generic) and value.dtype.kind == "f"


# -- habits ------------------------------------------------------------------------------------------------
HABITS = {
    "data": "only a Parameter or Buffer has .data; x.detach() is the value without history",
    "requires_grad_": "every floating Tensor keeps history; x.detach() or cr.stop_gradient(x) leaves it out",
    "clone": "a Tensor is immutable, so there is nothing to clone",
    "copy": "a Tensor is immutable, so there is nothing to copy; x.numpy().copy() is an array to write into",
    "view": "write x.reshape(...)",
    "ravel": "write x.flatten()",
    "permute": "write cr.permute_dims(x, axes)",
    "unsqueeze": "write cr.expand_dims(x, axis)",
    "dim": "write x.ndim",
    "numel": "write x.size",
    "t": "write x.T",
    "to": "write x.astype(dtype); everything runs on the CPU",
    "cpu": "everything runs on the CPU already",
    "cuda": "everything runs on the CPU",
    "device": "everything runs on the CPU",
    "float": "write x.astype(cr.float32)",
    "double": "write x.astype(cr.float64)",
    "long": "write x.astype(cr.int64)",
    "grad_fn": "the history is a graph; x.node.operands are what x was computed from",
    "assign": "only a Parameter or Buffer can be assigned to; a Tensor is immutable",
}


def missing(name: str) -> str:
    """What to write instead of the attribute `name` that a Tensor does not have."""
    text = f"a Tensor has no attribute {name!r}"
    if name in HABITS:
        return f"{text}: {HABITS[name]}"
    if name.endswith("_") and not name.startswith("_"):
        return f"{text}: a Tensor is immutable; compute a new one, or use p.assign(...) on a Parameter"
    renamed = RENAMED.get(name, name)
    if renamed in REGISTRY:
        return f"{text}: write cr.{renamed}(x)"
    return text
