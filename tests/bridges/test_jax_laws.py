"""JAX reads every record's meaning and pullback, and derives the same derivatives itself, sample by sample.

What JAX derives is compared where the derivative exists; ties and kinks, where each library has its own
convention, are in test_conventions.py.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from chainrule import laws
from chainrule.graph import Graph
from chainrule.laws.case import Case, Record, must_agree, rounding, run, size

jax = pytest.importorskip("jax")
jnp = jax.numpy

WITHOUT_DERIVATIVE = {"nextafter"}  # in JAX


@pytest.fixture(autouse=True)
def double_precision() -> Iterator[None]:
    before = jax.config.jax_enable_x64
    jax.config.update("jax_enable_x64", True)
    yield
    jax.config.update("jax_enable_x64", before)


def reading(case: Case, arrays: list[Any], g: list[Any]) -> tuple[Any, Any, Any]:
    """Values, our pullback, and JAX's own where there is one, all computed by JAX."""
    traced = case.traced
    floats = [traced.inputs.index(node) for node in traced.active]
    value = Graph(traced.inputs, tuple(traced.floating))

    def of_floats(*chosen: Any) -> Any:
        given = dict(zip(floats, chosen, strict=True))
        return value.evaluate(jnp, *(given.get(k, each) for k, each in enumerate(arrays)))

    derived = jax.vjp(of_floats, *(arrays[k] for k in floats))[1](tuple(g)) if derivable(case) else ()
    return traced.value.evaluate(jnp, *arrays), traced.pullback.evaluate(jnp, *arrays, *g), derived


def derivable(case: Case) -> bool:
    return case.smooth and case.record.name not in WITHOUT_DERIVATIVE


@pytest.mark.parametrize("record", laws.records(), ids=lambda record: record.name)
def test_jax_agrees_on_every_sample(record: Record) -> None:
    """All samples are compiled together, because XLA needs much longer to compile than to compute."""
    cases = [
        Case(record, sample, tuple(np.asarray(each) for each in sample.arrays(seed=index)))
        for index, sample in enumerate(record.samples)
    ]
    cotangents = [case.draw([node.type for node in case.traced.cotangents]) for case in cases]
    given = [
        (list(map(jnp.asarray, case.arrays)), list(map(jnp.asarray, g)))
        for case, g in zip(cases, cotangents, strict=True)
    ]
    quickly = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
    read = jax.jit(
        lambda given: [reading(case, *each) for case, each in zip(cases, given, strict=True)],
        compiler_options=quickly,
    )
    for case, g, found in zip(cases, cotangents, read(given), strict=True):
        with np.errstate(all="ignore"):
            values, pullback = (
                run(case.traced.value, *case.arrays),
                run(case.traced.pullback, *case.arrays, *g),
            )
        expected = values, pullback, pullback if derivable(case) else ()
        for what, got, wanted in zip(
            ("value", "pullback", "pullback derived by JAX"), found, expected, strict=True
        ):
            for a, b in zip(got, wanted, strict=True):
                bound = 10 * rounding(case.traced.pullback) * size([*case.arrays, *g, b])
                must_agree(f"{what} of {record.name}{case.sample}", a, b, bound)
                assert a.dtype == b.dtype, f"{what} of {record.name}{case.sample} is {a.dtype}, not {b.dtype}"
