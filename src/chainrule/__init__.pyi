"""The public names, typed. Written by `python -m tools.stubs`; change records or face instead."""

import builtins
from collections.abc import Sequence
from typing import Any

import numpy as np

from chainrule import cli as cli
from chainrule import data as data
from chainrule import errors as errors
from chainrule import laws as laws
from chainrule import nn as nn
from chainrule import optim as optim
from chainrule import random as random
from chainrule import recipe as recipe
from chainrule import run as run
from chainrule import show as show
from chainrule import train as train
from chainrule import tree as tree
from chainrule.batching import vmap as vmap
from chainrule.control import checkpoint as checkpoint
from chainrule.control import custom_vjp as custom_vjp
from chainrule.creation import arange as arange
from chainrule.creation import eye as eye
from chainrule.creation import full as full
from chainrule.creation import full_like as full_like
from chainrule.creation import linspace as linspace
from chainrule.creation import ones as ones
from chainrule.creation import ones_like as ones_like
from chainrule.creation import zeros as zeros
from chainrule.creation import zeros_like as zeros_like
from chainrule.insight.bad_number import first_bad_number as first_bad_number
from chainrule.insight.explain import explain as explain
from chainrule.insight.ledger import ledger as ledger
from chainrule.insight.sensitivity import sensitivity as sensitivity
from chainrule.insight.sensitivity import what_if as what_if
from chainrule.insight.steps import steps as steps
from chainrule.loops import scan as scan
from chainrule.ops import no_grad as no_grad
from chainrule.origin import scope as scope
from chainrule.program import compile as compile
from chainrule.recipe import Recipe as Recipe
from chainrule.tensor import Tensor as Tensor
from chainrule.tensor import asarray as asarray
from chainrule.train import Run as Run
from chainrule.train import Trainer as Trainer
from chainrule.train import fit as fit
from chainrule.transform import grad as grad
from chainrule.transform import hessian as hessian
from chainrule.transform import jacobian as jacobian
from chainrule.transform import jvp as jvp
from chainrule.transform import stop_gradient as stop_gradient
from chainrule.transform import value_and_grad as value_and_grad
from chainrule.transform import vjp as vjp
from numpy import bool as bool
from numpy import e as e
from numpy import float32 as float32
from numpy import float64 as float64
from numpy import inf as inf
from numpy import int32 as int32
from numpy import int64 as int64
from numpy import nan as nan
from numpy import newaxis as newaxis
from numpy import pi as pi
from numpy import uint32 as uint32
from numpy import uint8 as uint8

_Array = Tensor | np.ndarray[Any, Any] | np.generic | builtins.bool | int | float | Sequence[Any]
_Axis = int | Sequence[int] | None
_Axes = int | Sequence[int] | Sequence[Sequence[int]]
_DType = Any  # a NumPy dtype, its name, or a scalar type such as cr.float32

__version__: str

def abs(x: _Array, /) -> Tensor:
    """Absolute value; its derivative at 0 is 0."""

def acos(x: _Array, /) -> Tensor:
    """Inverse cosine, in radians."""

def acosh(x: _Array, /) -> Tensor:
    """Inverse hyperbolic cosine."""

def add(a: _Array, b: _Array, /) -> Tensor:
    """Sum of two arrays."""

def all(x: _Array, axis: _Axis = None, keepdims: builtins.bool = False) -> Tensor:
    """True where every element is true."""

def any(x: _Array, axis: _Axis = None, keepdims: builtins.bool = False) -> Tensor:
    """True where at least one element is true."""

def argmax(x: _Array, axis: int | None = None, keepdims: builtins.bool = False) -> Tensor:
    """Index of the largest along an axis, the first among equals."""

def argmin(x: _Array, axis: int | None = None, keepdims: builtins.bool = False) -> Tensor:
    """Index of the smallest along an axis, the first among equals."""

def argsort(x: _Array, axis: int = -1) -> Tensor:
    """Indices that sort along an axis, ascending and stable."""

def asin(x: _Array, /) -> Tensor:
    """Inverse sine, in radians."""

def asinh(x: _Array, /) -> Tensor:
    """Inverse hyperbolic sine."""

def astype(x: _Array, dtype: _DType) -> Tensor:
    """x converted to another dtype."""

def atan(x: _Array, /) -> Tensor:
    """Inverse tangent, in radians."""

def atan2(a: _Array, b: _Array, /) -> Tensor:
    """Angle of the point (b, a), in radians."""

def atanh(x: _Array, /) -> Tensor:
    """Inverse hyperbolic tangent."""

def bitwise_and(a: _Array, b: _Array, /) -> Tensor:
    """Bits set in both."""

def bitwise_invert(x: _Array, /) -> Tensor:
    """Every bit flipped."""

def bitwise_left_shift(a: _Array, b: _Array, /) -> Tensor:
    """a shifted left by b bits."""

def bitwise_or(a: _Array, b: _Array, /) -> Tensor:
    """Bits set in either."""

def bitwise_right_shift(a: _Array, b: _Array, /) -> Tensor:
    """a shifted right by b bits."""

def bitwise_xor(a: _Array, b: _Array, /) -> Tensor:
    """Bits set in exactly one."""

def broadcast_to(x: _Array, shape: int | Sequence[int]) -> Tensor:
    """x repeated to a larger shape, without a copy."""

def ceil(x: _Array, /) -> Tensor:
    """Rounded up."""

def clip(x: _Array, min: _Array | None = None, max: _Array | None = None) -> Tensor:
    """x held between two bounds; at a bound the derivative passes, as in PyTorch."""

def concat(arrays: Sequence[Any], axis: int | None = 0) -> Tensor:
    """Arrays joined along an axis."""

def copysign(a: _Array, b: _Array, /) -> Tensor:
    """The magnitude of a with the sign of b."""

def cos(x: _Array, /) -> Tensor:
    """Cosine, x in radians."""

def cosh(x: _Array, /) -> Tensor:
    """Hyperbolic cosine."""

def cumulative_sum(x: _Array, axis: int | None = None, include_initial: builtins.bool = False, reverse: builtins.bool = False) -> Tensor:
    """Running sum along an axis (from the end when reverse)."""

def divide(a: _Array, b: _Array, /) -> Tensor:
    """Quotient of two arrays."""

def einsum(subscripts: str, *operands: _Array) -> Tensor:
    """Sum of products over labelled axes, in Einstein's notation."""

def equal(a: _Array, b: _Array, /) -> Tensor:
    """a == b."""

def erf(x: _Array, /) -> Tensor:
    """The error function."""

def exp(x: _Array, /) -> Tensor:
    """e to the power of x."""

def expand_dims(x: _Array, axis: _Axis = 0) -> Tensor:
    """New axes of length 1."""

def expm1(x: _Array, /) -> Tensor:
    """exp(x) - 1, accurate near 0."""

def flip(x: _Array, axis: _Axis = None) -> Tensor:
    """The elements in reverse order along axes."""

def floor(x: _Array, /) -> Tensor:
    """Rounded down."""

def floor_divide(a: _Array, b: _Array, /) -> Tensor:
    """The quotient, rounded down."""

def greater(a: _Array, b: _Array, /) -> Tensor:
    """a > b."""

def greater_equal(a: _Array, b: _Array, /) -> Tensor:
    """a >= b."""

def hypot(a: _Array, b: _Array, /) -> Tensor:
    """sqrt(a**2 + b**2) without overflow; the derivative at (0, 0) is taken as 0."""

def iota(shape: int | Sequence[int], axis: _Axis = 0, dtype: _DType = ...) -> Tensor:
    """0, 1, 2, ... along one axis of a shape."""

def isfinite(x: _Array, /) -> Tensor:
    """Neither infinite nor NaN."""

def isinf(x: _Array, /) -> Tensor:
    """Infinite."""

def isnan(x: _Array, /) -> Tensor:
    """Not a number."""

def less(a: _Array, b: _Array, /) -> Tensor:
    """a < b."""

def less_equal(a: _Array, b: _Array, /) -> Tensor:
    """a <= b."""

def log(x: _Array, /) -> Tensor:
    """Natural logarithm."""

def log10(x: _Array, /) -> Tensor:
    """Logarithm to base 10."""

def log1p(x: _Array, /) -> Tensor:
    """log(1 + x), accurate near 0."""

def log2(x: _Array, /) -> Tensor:
    """Logarithm to base 2."""

def log_softmax(x: _Array, axis: int = -1) -> Tensor:
    """Logarithm of softmax along an axis."""

def logaddexp(a: _Array, b: _Array, /) -> Tensor:
    """log(exp(a) + exp(b)) without overflow."""

def logical_and(a: _Array, b: _Array, /) -> Tensor:
    """a and b."""

def logical_not(x: _Array, /) -> Tensor:
    """not a."""

def logical_or(a: _Array, b: _Array, /) -> Tensor:
    """a or b."""

def logical_xor(a: _Array, b: _Array, /) -> Tensor:
    """Exactly one of a and b."""

def logsumexp(x: _Array, axis: _Axis = None, keepdims: builtins.bool = False) -> Tensor:
    """log(sum(exp(x))) along axes without overflow."""

def matmul(a: _Array, b: _Array) -> Tensor:
    """Matrix product over the last two axes; leading axes broadcast."""

def matrix_transpose(x: _Array) -> Tensor:
    """The last two axes exchanged."""

def max(x: _Array, axis: _Axis = None, keepdims: builtins.bool = False) -> Tensor:
    """The largest along axes; ties share the derivative equally."""

def maximum(a: _Array, b: _Array, /) -> Tensor:
    """The larger of two; a tie splits the derivative."""

def mean(x: _Array, axis: _Axis = None, keepdims: builtins.bool = False) -> Tensor:
    """Arithmetic mean along axes."""

def min(x: _Array, axis: _Axis = None, keepdims: builtins.bool = False) -> Tensor:
    """The smallest along axes; ties share the derivative equally."""

def minimum(a: _Array, b: _Array, /) -> Tensor:
    """The smaller of two; a tie splits the derivative."""

def moveaxis(x: _Array, source: int, destination: int) -> Tensor:
    """One axis moved to another place."""

def multiply(a: _Array, b: _Array, /) -> Tensor:
    """Product of two arrays, element by element."""

def negative(x: _Array, /) -> Tensor:
    """The array with its sign flipped."""

def nextafter(a: _Array, b: _Array, /) -> Tensor:
    """The next floating number after a in the direction of b."""

def not_equal(a: _Array, b: _Array, /) -> Tensor:
    """a != b."""

def one_hot(indices: _Array, classes: int, dtype: _DType = ...) -> Tensor:
    """1 at the position of each index, 0 elsewhere; float32 unless a dtype is given."""

def outer(a: _Array, b: _Array) -> Tensor:
    """Outer product of two vectors."""

def pad(x: _Array, pad_width: int | Sequence[int] | Sequence[Sequence[int]], constant_value: float = 0.0) -> Tensor:
    """x with a constant border; pad_width as in NumPy."""

def permute_dims(x: _Array, axes: Sequence[int]) -> Tensor:
    """The axes in another order."""

def positive(x: _Array, /) -> Tensor:
    """The array itself."""

def pow(x: _Array, p: _Array, /) -> Tensor:
    """x to the power of p; the derivative through p is 0 where x <= 0."""

def prod(x: _Array, axis: _Axis = None, keepdims: builtins.bool = False) -> Tensor:
    """Product along axes."""

def reciprocal(x: _Array, /) -> Tensor:
    """1 / x; in floating point for integers too, unlike NumPy's."""

def relu(x: _Array, /) -> Tensor:
    """max(x, 0); its derivative at 0 is 0, as in PyTorch and JAX."""

def remainder(a: _Array, b: _Array, /) -> Tensor:
    """a - b * floor(a / b): the sign of b, as Python's %."""

def repeat(x: _Array, repeats: int, axis: int | None = None) -> Tensor:
    """Every element repeated in place, along an axis."""

def reshape(x: _Array, shape: int | Sequence[int]) -> Tensor:
    """The same elements in row-major order under another shape; one extent may be -1."""

def roll(x: _Array, shift: int, axis: int) -> Tensor:
    """Elements shifted along an axis, those that fall off re-enter."""

def round(x: _Array, /) -> Tensor:
    """Rounded to the nearest integer, halves to even."""

def rsqrt(x: _Array, /) -> Tensor:
    """1 / sqrt(x)."""

def scatter_add(x: _Array, indices: _Array, updates: _Array, axis: int = 0) -> Tensor:
    """x with updates added at integer positions along an axis."""

def sigmoid(x: _Array, /) -> Tensor:
    """1 / (1 + exp(-x))."""

def sign(x: _Array, /) -> Tensor:
    """-1, 0 or 1."""

def signbit(x: _Array, /) -> Tensor:
    """True where the sign is negative, -0.0 included."""

def sin(x: _Array, /) -> Tensor:
    """Sine, x in radians."""

def sinh(x: _Array, /) -> Tensor:
    """Hyperbolic sine."""

def softmax(x: _Array, axis: int = -1) -> Tensor:
    """exp(x) normalised to sum 1 along an axis."""

def softplus(x: _Array, /) -> Tensor:
    """log(1 + exp(x)) without overflow."""

def sort(x: _Array, axis: int = -1) -> Tensor:
    """Sorted ascending along an axis."""

def sqrt(x: _Array, /) -> Tensor:
    """Square root."""

def square(x: _Array, /) -> Tensor:
    """x * x."""

def squeeze(x: _Array, axis: _Axis = None) -> Tensor:
    """Without the axes of length 1."""

def stack(arrays: Sequence[Any], axis: int = 0) -> Tensor:
    """Arrays of one shape joined along a new axis."""

def std(x: _Array, axis: _Axis = None, correction: float = 0.0, keepdims: builtins.bool = False) -> Tensor:
    """Standard deviation along axes; divides by n - correction."""

def subtract(a: _Array, b: _Array, /) -> Tensor:
    """Difference of two arrays."""

def sum(x: _Array, axis: _Axis = None, keepdims: builtins.bool = False) -> Tensor:
    """Sum along axes."""

def take(x: _Array, indices: _Array, axis: int | None = None) -> Tensor:
    """Elements at integer positions along an axis."""

def take_along_axis(x: _Array, indices: _Array, axis: int = -1) -> Tensor:
    """One element per position along an axis."""

def tan(x: _Array, /) -> Tensor:
    """Tangent, x in radians."""

def tanh(x: _Array, /) -> Tensor:
    """Hyperbolic tangent."""

def tensordot(a: _Array, b: _Array, axes: _Axes = 2) -> Tensor:
    """Sum of products over pairs of axes."""

def tile(x: _Array, repetitions: Sequence[int]) -> Tensor:
    """x repeated as a whole along each axis."""

def tril(x: _Array, k: _Array = 0) -> Tensor:
    """The lower triangle of the last two axes."""

def triu(x: _Array, k: _Array = 0) -> Tensor:
    """The upper triangle of the last two axes."""

def trunc(x: _Array, /) -> Tensor:
    """Rounded towards 0."""

def var(x: _Array, axis: _Axis = None, correction: float = 0.0, keepdims: builtins.bool = False) -> Tensor:
    """Variance along axes; divides by n - correction."""

def vecdot(a: _Array, b: _Array, axis: int = -1) -> Tensor:
    """Dot product along an axis."""

def where(condition: _Array, a: _Array, b: _Array) -> Tensor:
    """a where the condition is true, b elsewhere."""

