"""The laws every primitive keeps, as functions that anybody can run on a record of their own.

A record says what a primitive computes and what its derivative is. Each law compares two independent
readings of it: the type rule with the actual type, the pullback with differences of the meaning, the traced
reading with the eager one, float32 with float64. `check` holds a record to all of them on all its samples.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from chainrule.errors import LawError
from chainrule.laws.case import Backend, Case, Record
from chainrule.laws.derivatives import (
    barrier,
    convention,
    eager_pullback,
    fan_out,
    forward_mode,
    linear,
    origins,
    pullback,
    repeated_operand,
    second_derivative,
    unused_outputs,
)
from chainrule.laws.samples import CONTROL
from chainrule.laws.values import (
    dtypes,
    eager_value,
    feeds,
    nest,
    on_backends,
    oracle,
    single_precision,
    types,
)
from chainrule.primitives import REGISTRY
from chainrule.reverse import ReverseWalk, walk
from chainrule.types import type_of

Law = Callable[[Case], None]


def check(
    record: Record,
    *,
    backends: Mapping[str, Backend] | None = None,
    walk: ReverseWalk = walk,
    laws: Sequence[Law] | None = None,
) -> None:
    """Hold `record` to every law on each of its samples; raises `LawError` at the first one it breaks.

    `backends` are other ways to run a graph: name → (graph → function from input values to output values).
    What they compute must be what the reference computes.

    >>> import chainrule as cr
    >>> from chainrule.primitive import Draw, Primitive, Sample
    >>> cube = Primitive(
    ...     "cube", "x * x * x.",
    ...     infer=lambda x: x,
    ...     meaning=lambda xp, x: x * x * x,
    ...     pullback=(lambda ops, g, y, x: ops.multiply(g, ops.multiply(ops.square(x), 3)),),
    ...     samples=(Sample((Draw((2, 3)),)), Sample((Draw(()),))),
    ... )
    >>> cr.laws.check(cube)
    """
    for index, sample in enumerate(record.samples):
        arrays = tuple(np.asarray(each) for each in sample.arrays(seed=index))
        case = Case(record, sample, arrays, walk, backends or {})
        for law in laws if laws is not None else LAWS:
            case.seed(law.__name__)
            try:
                with np.errstate(all="ignore"):
                    law(case)
            except Exception as error:
                broke = str(error) if isinstance(error, LawError) else f"{type(error).__name__}: {error}"
                raise LawError(f"{_place(case, index)} breaks the law {law.__name__!r}: {broke}") from error


def _place(case: Case, index: int) -> str:
    types = ", ".join(str(type_of(each)) for each in case.arrays)
    attributes = "".join(f", {key}={value!r}" for key, value in case.sample.attributes.items())
    return f"{case.record.name}, sample {index} ({types}{attributes}),"


LAWS: tuple[Law, ...] = (
    types, oracle, nest, eager_value, pullback, convention, barrier, linear, eager_pullback, fan_out,
    unused_outputs, repeated_operand, forward_mode, second_derivative, single_precision, origins,
    dtypes, on_backends, feeds,
)  # fmt: skip


def records() -> list[Record]:
    """Every record of the engine."""
    return [*REGISTRY.values(), *CONTROL]
