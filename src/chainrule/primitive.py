"""The record: everything there is to know about one primitive, in one place.

The public function, the reference backend, the laws every primitive must keep, the mutants that test the
laws, the docs row and (later) native kernels are all derived from this record. Adding ``tanh`` touches one
place and adds no test.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from chainrule.types import Shape

Rule = Callable[..., Any]


@dataclass(frozen=True)
class Draw:
    """How to draw one sample operand: uniform in [low, high) for floats, integers in [low, high), or bool."""

    shape: Shape
    low: float = -2.0
    high: float = 2.0
    dtype: str = "float64"

    def array(self, generator: np.random.Generator) -> np.ndarray[Any, Any]:
        if self.dtype == "bool":
            return generator.random(self.shape) < 0.5
        if np.dtype(self.dtype).kind in "iu":
            return generator.integers(int(self.low), int(self.high), self.shape).astype(self.dtype)
        return generator.uniform(self.low, self.high, self.shape).astype(self.dtype)


@dataclass(frozen=True)
class Sample:
    """One call on which the laws are checked: operands to draw, or given arrays, and attributes."""

    operands: tuple[Draw | np.ndarray[Any, Any], ...]
    attributes: dict[str, Any] = field(default_factory=dict)
    value: Any = None
    """A known answer, from a paper or a table; None where nobody published one."""
    convention: tuple[Any, ...] | None = None
    """At a tie or a kink the derivative is a convention: what ones pulled back give, per floating operand."""

    def arrays(self, seed: int = 0) -> list[np.ndarray[Any, Any]]:
        generator = np.random.default_rng(seed)
        return [each.array(generator) if isinstance(each, Draw) else each for each in self.operands]


@dataclass(frozen=True, eq=False)
class Primitive:
    """One primitive operation.

    name      what it is called in graphs, in `ops` and (unless `surface` says otherwise) in the public API
    doc       one line for people
    infer     ``infer(*types, **attributes) -> Type`` (a tuple of types for `call` and `scan`)
    meaning   ``meaning(xp, *arrays, **attributes) -> array``; `xp` is NumPy, or a namespace like it
    pullback  the local derivative, written in the same operations: one rule per operand,
              ``rule(ops, g, y, *operands, **attributes) -> cotangent`` (None where no derivative flows),
              or one function for all operands that returns a sequence of cotangents.
              `g` is the cotangent of the output `y`. A rule must be linear in `g`; for an elementwise
              primitive it may have the broadcast shape: the walk sums it back to the operand's.
    surface   ``surface(ops, *args, **kwargs)``: what users write, turned into operands and attributes
    samples   the calls on which the laws are checked
    nest      ``nest(*types, **attributes) -> Nest``: the loop that computes it, element by element
    """

    name: str
    doc: str
    infer: Callable[..., Any]
    meaning: Callable[..., Any]
    pullback: tuple[Rule | None, ...] | Rule | None = None
    samples: tuple[Sample, ...] = ()
    surface: Callable[..., Any] | None = None
    elementwise: bool = False
    analytic: bool = True
    """The meaning also runs on complex numbers and is analytic: a complex step gives its exact derivative."""
    ulps: float = 4.0
    """Bound on the float32 error, in units in the last place of the largest number in the call."""
    oracle: str | Rule | None = None
    """An independent function that must agree: a dotted name ("numpy.exp") or a function of NumPy arrays."""
    spelling: Rule | None = None
    """How users and NumPy write a sample: ``spelling(function, *operands, **attributes)``; None: plainly."""
    barrier: bool = False
    """No derivative flows on purpose, although the value depends on the operand: `stop_gradient`."""
    nest: Callable[..., Any] | None = None
    feeds: Callable[..., Any] | None = None
    """``feeds(place, *arrays, **attributes)`` where there is no nest: per operand, what feeds an element."""

    def rule(self, operand: int) -> Rule | None:
        """The pullback through `operand` of a primitive that has one rule per operand."""
        if not isinstance(self.pullback, tuple):
            return None
        return self.pullback[operand] if operand < len(self.pullback) else None

    @property
    def differentiable(self) -> bool:
        return callable(self.pullback) or (isinstance(self.pullback, tuple) and any(self.pullback))

    def __repr__(self) -> str:
        return f"<primitive {self.name}>"


@dataclass(frozen=True, eq=False)
class Composite:
    """A public function that is only a combination of primitives: no rule of its own, the same laws."""

    name: str
    doc: str
    surface: Callable[..., Any]
    samples: tuple[Sample, ...] = ()
    analytic: bool = True
    ulps: float = 16.0
    oracle: str | Rule | None = None
    spelling: Rule | None = None
