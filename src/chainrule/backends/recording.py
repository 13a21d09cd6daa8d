"""What NumPy is asked to do when a graph runs: the graph's meanings, recorded call by call.

A meaning is run once on arrays that watch (NumPy's own protocols, ``__array_ufunc__`` and
``__array_function__``, tell them of every call). So the record of a primitive stays the only place that says
how it is computed, and the memory layout of every result is seen, not guessed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from types import FunctionType
from typing import Any

import numpy as np
from numpy.lib.mixins import NDArrayOperatorsMixin

from chainrule.graph import Array, Node

METHODS = frozenset(
    ("argmax", "argmin", "argsort", "astype", "cumsum", "ravel", "reshape", "squeeze", "take", "transpose")
)
"""Methods of arrays that are recorded. Reductions are not among them: they come down to ``ufunc.reduce``."""


class Refused(Exception):
    """A meaning did something that calls of NumPy functions cannot repeat."""


@dataclass(eq=False)
class Symbol:
    """One array of a run: its type, its layout, and the symbol whose memory it is a view of."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    strides: tuple[int, ...]
    base: Symbol | None = field(default=None, repr=False)
    is_input: bool = False

    @property
    def root(self) -> Symbol:
        """The symbol whose memory this is: itself, unless it is a view."""
        return self if self.base is None else self.base

    @property
    def size(self) -> int:
        """Number of elements."""
        count = 1
        for extent in self.shape:
            count *= extent
        return count

    @property
    def is_row_major(self) -> bool:
        """True when it is laid out as a fresh array."""
        return self.strides == np.empty(self.shape, self.dtype).strides

    @property
    def span(self) -> int:
        """Bytes from the first element to the end of the last one."""
        steps = zip(self.shape, self.strides, strict=True)
        return (
            sum((extent - 1) * stride for extent, stride in steps) + self.dtype.itemsize if self.size else 0
        )


@dataclass(eq=False)
class Call:
    """One call: arguments are symbols, constants, or tuples, lists and slices of them.

    kind  "ufunc" (`function` is a NumPy ufunc), "reduce" (its reduce), "method" (`function` is the name and
          the array comes first), "item" (indexing), "function" (of NumPy) or "meaning" (a whole primitive)
    """

    kind: str
    function: Any
    arguments: tuple[Any, ...]
    keywords: dict[str, Any]
    result: Any
    node: Node

    @property
    def symbols(self) -> list[Symbol]:
        """The arrays it reads."""
        return [*_symbols(self.arguments), *_symbols(tuple(self.keywords.values()))]

    @property
    def results(self) -> tuple[Symbol, ...]:
        """The arrays it makes."""
        return self.result if isinstance(self.result, tuple) else (self.result,)


def _symbols(value: Any) -> Iterator[Symbol]:
    if isinstance(value, Symbol):
        yield value
    elif isinstance(value, tuple | list):
        for each in value:
            yield from _symbols(each)


class Recorder:
    """Runs meanings and keeps the calls."""

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self._node: Node | None = None

    def input(self, array: Array) -> Watched:
        """An array that is given anew in every run."""
        return Watched(self, array, Symbol(array.shape, array.dtype, array.strides, is_input=True))

    def run(self, node: Node, meaning: Callable[..., Any], operands: Sequence[Any]) -> Any:
        """The value of a node: `Watched` arrays, or an array that does not depend on any of them."""
        self._node = node
        mark = len(self.calls)
        if any(isinstance(each, Watched) for each in operands):
            try:
                result = meaning(np, *operands)
                if isinstance(result, Watched):
                    return result
            except Exception:  # whatever it was, it comes again, and this time as NumPy says it
                pass
            del self.calls[mark:]
        return self.opaque(node, meaning, operands)

    def opaque(self, node: Node, meaning: Callable[..., Any], operands: Sequence[Any]) -> Any:
        """The value of a node as one call of its meaning."""
        self._node = node

        def of_arrays(*arrays: Any) -> Any:
            return meaning(np, *arrays)

        return self.record("meaning", of_arrays, tuple(operands), {})

    def record(self, kind: str, function: Any, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> Any:
        """Make the call and remember it."""
        result = _PERFORM[kind](function, _arrays(arguments), _arrays(keywords))
        watched = self._watched(result, list(_watched((arguments, keywords))))
        assert self._node is not None
        made = _as_symbols(watched)
        self.calls.append(
            Call(kind, function, _as_symbols(arguments), _as_symbols(keywords), made, self._node)
        )
        return watched

    def _watched(self, result: Any, operands: Sequence[Watched]) -> Any:
        if isinstance(result, tuple):
            return tuple(self._watched(each, operands) for each in result)
        if not isinstance(result, np.ndarray | np.generic):
            raise Refused
        array = np.asarray(result)
        shared = [each for each in operands if np.may_share_memory(array, each.array)]
        base = shared[0].symbol.root if shared else None
        return Watched(self, array, Symbol(array.shape, array.dtype, array.strides, base))


class Watched(NDArrayOperatorsMixin):
    """An array that tells a recorder what is done with it."""

    def __init__(self, recorder: Recorder, array: Array, symbol: Symbol) -> None:
        self.recorder = recorder
        self.array = array
        self.symbol = symbol
        self.shape, self.dtype, self.ndim, self.size = array.shape, array.dtype, array.ndim, array.size

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **keywords: Any) -> Any:
        kept = {name: value for name, value in keywords.items() if not _is_default(value)}
        if method not in ("__call__", "reduce") or "out" in kept or ufunc.nout > 1:
            raise Refused
        return self.recorder.record("ufunc" if method == "__call__" else "reduce", ufunc, inputs, kept)

    def __array_function__(self, function: Any, types: Any, arguments: Any, keywords: Any) -> Any:
        if function in (np.zeros_like, np.ones_like) and len(arguments) == 1 and not keywords:
            number = np.array(function is np.ones_like, self.dtype)
            return np.broadcast_to(number, self.shape)  # depends on no value, and takes no memory
        inner = getattr(function, "__wrapped__", None)
        if isinstance(
            inner, FunctionType
        ):  # written in Python: see which ufuncs and methods it comes down to
            mark = len(self.recorder.calls)
            try:
                result = inner(*arguments, **keywords)
                if isinstance(result, Watched):
                    return result
            except Exception:  # it needs a real array: then it is one call
                pass
            del self.recorder.calls[mark:]
        return self.recorder.record("function", function, arguments, keywords)

    def __getattr__(self, name: str) -> Any:
        if name not in METHODS:
            raise AttributeError(name)

        def method(*arguments: Any, **keywords: Any) -> Any:
            kept = {key: value for key, value in keywords.items() if not _is_default(value)}
            return self.recorder.record("method", name, (self, *arguments), kept)

        return method

    def __getitem__(self, key: Any) -> Any:
        return self.recorder.record("item", None, (self, key), {})

    def _refuse(self, *_: Any) -> Any:
        raise Refused

    __array__ = __bool__ = __float__ = __int__ = __index__ = __iter__ = __pow__ = __setitem__ = _refuse


def _is_default(value: Any) -> bool:
    """True for the marks with which NumPy's own functions say that a keyword was not given."""
    return value is None or type(value).__name__ == "_NoValueType"


_PERFORM: dict[str, Callable[..., Any]] = {
    "ufunc": lambda ufunc, arguments, keywords: ufunc(*arguments, **keywords),
    "reduce": lambda ufunc, arguments, keywords: ufunc.reduce(*arguments, **keywords),
    "method": lambda name, arguments, keywords: getattr(arguments[0], name)(*arguments[1:], **keywords),
    "item": lambda _, arguments, keywords: arguments[0][arguments[1]],
    "function": lambda function, arguments, keywords: function(*arguments, **keywords),
    "meaning": lambda function, arguments, keywords: function(*arguments),
}


def _each(value: Any, change: Callable[[Watched], Any]) -> Any:
    """`value` with every watched array in it changed."""
    if isinstance(value, Watched):
        return change(value)
    if isinstance(value, tuple | list):
        return type(value)(_each(each, change) for each in value)
    if isinstance(value, dict):
        return {name: _each(each, change) for name, each in value.items()}
    return value


def _arrays(value: Any) -> Any:
    return _each(value, lambda watched: watched.array)


def _as_symbols(value: Any) -> Any:
    return _each(value, lambda watched: watched.symbol)


def _watched(value: Any) -> Iterator[Watched]:
    if isinstance(value, Watched):
        yield value
    elif isinstance(value, tuple | list | dict):
        for each in value.values() if isinstance(value, dict) else value:
            yield from _watched(each)
