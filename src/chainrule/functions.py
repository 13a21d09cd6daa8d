"""The array functions of the public API, derived from the records: ``cr.exp``, ``cr.sum``, ``cr.where``, …"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from chainrule.ops import ops
from chainrule.primitive import Composite, Primitive
from chainrule.primitives import REGISTRY
from chainrule.tensor import Tensor

# Records that only other records (or methods of Tensor) use.
INTERNAL = frozenset(
    {"getitem", "place", "scatter", "slice", "identity", "random_bits", "fold_in", "gather"}
)
PUBLIC = tuple(sorted(name for name in REGISTRY if name not in INTERNAL and name != "stop_gradient"))


def public(name: str) -> Callable[..., Tensor]:
    """The public function of the record `name`: Tensors in, Tensor out."""
    record = REGISTRY[name]
    apply = ops.surface(record)

    def function(*arguments: Any, **keywords: Any) -> Tensor:
        return Tensor(apply(*arguments, **keywords))

    function.__name__ = function.__qualname__ = name
    function.__module__ = "chainrule"
    function.__doc__ = record.doc
    function.__signature__ = signature(record)  # type: ignore[attr-defined]
    return function


def signature(record: Primitive | Composite) -> inspect.Signature:
    """The parameters users see."""
    if record.surface is not None:
        parameters = list(inspect.signature(record.surface).parameters.values())[1:]
        if not any(each.kind is inspect.Parameter.VAR_POSITIONAL for each in parameters):
            return inspect.Signature(parameters)
    meaning = record.meaning if isinstance(record, Primitive) else record.surface
    assert meaning is not None
    return inspect.Signature(list(inspect.signature(meaning).parameters.values())[1:])


FUNCTIONS: dict[str, Callable[..., Tensor]] = {name: public(name) for name in PUBLIC}


def __getattr__(name: str) -> Any:
    if name in FUNCTIONS:
        return FUNCTIONS[name]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
