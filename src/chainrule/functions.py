"""The array functions of the public API, derived from the records: ``cr.exp``, ``cr.sum``, ``cr.where``, …"""

from __future__ import annotations

from collections.abc import Callable
from inspect import Parameter, Signature, signature
from typing import Any

from chainrule.errors import ChainruleError
from chainrule.ops import ops
from chainrule.origin import at_user_line
from chainrule.primitive import Composite, Primitive
from chainrule.primitives import REGISTRY
from chainrule.tensor import Tensor

# Records that only other records, methods of Tensor or layers use.
INTERNAL = frozenset(
    {
        "arange_node", "checked_indices", "convolve", "fold_in", "gather", "getitem", "identity", "place",
        "random_bits", "scatter", "slice", "tally",
    }
)  # fmt: skip
PUBLIC = tuple(sorted(name for name in REGISTRY if name not in INTERNAL and name != "stop_gradient"))


def public(name: str) -> Callable[..., Tensor]:
    """The public function of the record `name`: Tensors (or what makes one) in, Tensor out."""
    record = REGISTRY[name]
    apply, users = ops.surface(record), signature_of(record)

    def function(*arguments: Any, **options: Any) -> Tensor:
        try:
            return Tensor(apply(*arguments, **options))
        except ChainruleError:
            raise
        except TypeError:
            _check(name, users, arguments, options)
            raise

    function.__name__ = function.__qualname__ = name
    function.__module__ = "chainrule"
    function.__doc__ = record.doc
    function.__dict__["__signature__"] = users
    return function


def _check(name: str, users: Signature, arguments: tuple[Any, ...], options: dict[str, Any]) -> None:
    """Say it in the user's terms when the arguments are not those of the function."""
    try:
        users.bind(*arguments, **options)
    except TypeError as error:
        raise TypeError(f"cr.{name}{users}: {error}{at_user_line()}") from None


def signature_of(record: Primitive | Composite) -> Signature:
    """The parameters users see, without annotations."""
    written = _parameters(record.surface) if record.surface is not None else []
    if isinstance(record, Primitive) and [each.kind for each in written] in ([], [Parameter.VAR_POSITIONAL]):
        written = _operands(record)
    return Signature([each.replace(annotation=Parameter.empty) for each in written])


def _operands(record: Primitive) -> list[Parameter]:
    """The operands of a primitive without a surface of its own, named as in its meaning."""
    written = [each.replace(kind=Parameter.POSITIONAL_ONLY) for each in _parameters(record.meaning)]
    count = len(record.samples[0].operands)
    if len(written) == count:
        return written
    return [Parameter(name, Parameter.POSITIONAL_ONLY) for name in ("x" if count == 1 else "ab")]


def _parameters(function: Callable[..., Any]) -> list[Parameter]:
    """All but the first, which is the vocabulary or the array namespace."""
    return list(signature(function).parameters.values())[1:]


FUNCTIONS: dict[str, Callable[..., Tensor]] = {name: public(name) for name in PUBLIC}
