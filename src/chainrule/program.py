"""`cr.compile`: a function traced once per combination of shapes and dtypes, and run by a backend."""

from __future__ import annotations

import os
import warnings
from collections import OrderedDict
from collections.abc import Callable, Hashable
from functools import partial, update_wrapper
from importlib import import_module
from threading import RLock
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from chainrule.active import is_transforming
from chainrule.backends import numpy as reference
from chainrule.backends.native import engine as native
from chainrule.control import Arguments
from chainrule.errors import ChainruleError
from chainrule.graph import CONSTANT, PLAIN, Node
from chainrule.origin import at_user_line
from chainrule.tensor import Tensor
from chainrule.trace import Program, inside_trace, own, trace_program
from chainrule.tree import tree_map
from chainrule.types import Type

if TYPE_CHECKING:
    from chainrule.backends.native.profile import Profile

Executable = reference.Executable | native.Executable
BACKENDS: dict[str, Callable[..., Executable]] = {
    "native": native.compile_graph,
    "numpy": reference.compile_graph,
}
_CHECKED = {
    "native": ("backends.native.checked", "compile_checked"),
    "numpy": ("backends.finding", "CheckedReference"),
}
_KEPT = 64
_MANY = 8


class Specialisation(NamedTuple):
    """A program and what a backend made of it."""

    program: Program
    run: Executable


class Compiled:
    """A function that runs as one graph; the same values as calling it eagerly.

    Arrays in the arguments are inputs of the graph; Python numbers, strings and modules are part of the
    specialisation. Parameters and buffers that the function reads or assigns become inputs and outputs.
    Inside another function that is traced or differentiated it is simply a part of that function.
    """

    def __init__(
        self, function: Callable[..., Any], backend: str = "native", checked: bool | None = None
    ) -> None:
        if backend not in BACKENDS:
            raise ValueError(f"there is no backend {backend!r}: choose one of {', '.join(BACKENDS)}")
        self.function = function
        self.backend = backend
        self.checked = is_checked(checked)
        self._specialisations: OrderedDict[Hashable, list[Specialisation]] = OrderedDict()
        self._count = 0
        self._lock = RLock()
        update_wrapper(self, function, updated=())  # name and doc, not the attributes of a wrapped object

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        given = Arguments(arguments, options)
        if inside_trace() or is_transforming():
            return given.call(self.function, [Tensor(node) for node in given.nodes])
        program, run = self._specialised(given)
        results = program.results(run(program.arrays([node.value for node in given.nodes])))
        return tree_map(_plain, results)

    def __get__(self, instance: Any, owner: Any = None) -> Any:
        """As a method: the instance is the first argument."""
        return self if instance is None else partial(self, instance)

    def _specialised(self, given: Arguments) -> Specialisation:
        key = self._key(given)
        with self._lock:
            made = self._specialisations.setdefault(key, [])
            self._specialisations.move_to_end(key)
            # Several for one key: traced under other facts, such as the training mode of a model.
            found = next((each for each in made if each.program.holds), None)
            if found is None:
                found = self._traced(given)
                made[:] = [*made, found][-_MANY:]
            if len(self._specialisations) > _KEPT:
                self._specialisations.popitem(last=False)
            return found

    def _traced(self, given: Arguments) -> Specialisation:
        def of_tensors(*tensors: Tensor) -> Any:
            return given.call(self.function, tensors)

        program = trace_program(of_tensors, given.types)
        self._count += 1
        if self._count == _MANY:
            warnings.warn(
                f"{self._name} was compiled for the {_MANY}th combination of shapes, dtypes and Python "
                "arguments; pad batches to one shape, or pass numbers that change as arrays",
                stacklevel=5,
            )
        return Specialisation(program, compiler(self.backend, self.checked)(program.graph))

    def _key(self, given: Arguments) -> Hashable:
        """What a specialisation depends on: the structure, the types of arrays, everything else by value."""
        fixed = tuple(
            None if moves else (type(leaf), leaf.hex() if isinstance(leaf, float) else leaf)
            for leaf, moves in zip(given.leaves, given.moving, strict=True)
        )
        key = (given.structure, fixed, tuple(given.types))
        try:
            hash(key)
        except TypeError as error:
            raise ChainruleError(
                f"{self._name} is compiled and cannot take this argument{at_user_line()}: {error}. Arguments "
                "are arrays, containers of arrays, Modules, or hashable Python values"
            ) from None
        return key

    @property
    def _name(self) -> str:
        return getattr(self.function, "__name__", type(self.function).__name__)

    def profile(self, *arguments: Any, repeats: int = 100, **options: Any) -> Profile:
        """Where the time of a call with these arguments goes: kernel by kernel, and summed up by layer.

        It is compiled anew with clocks around every kernel and called `repeats` times; no cell changes.
        Needs the native backend: raises `ChainruleError` for what runs on another.

        >>> import numpy as np, chainrule as cr
        >>> square = cr.compile(lambda x: cr.sum(x @ x))
        >>> found = square.profile(np.ones((8, 8), np.float32), repeats=3)
        >>> [row.flops for row in found.rows], found.runs
        ([1024.0, 64.0], 3)
        """
        given = Arguments(arguments, options)
        program, run = self._specialised(given)
        if not isinstance(run, native.Executable):
            raise ChainruleError(
                f"{self._name} runs on the numpy backend: only native code has kernels to time"
            )
        values = [np.asarray(each) for each in program.arrays([node.value for node in given.nodes])]
        found: Profile = on_demand("backends.native.profile").profile_call(program.graph, values, repeats)
        return found

    def show(self, what: str = "graph") -> str:
        """What was traced so far, as text: "graph", or what the backend shows of how it runs.

        Both backends have "passes" (what each pass left) and "simplified" (the graph after them). The native
        one has "kernels" (a table), "nests" (their loops), "memory" (where arrays lie), "llvm" and "asm", and
        "llvm NAME" or "asm NAME" for one function; the numpy one "python" (the function that runs).
        """
        specialisations = [each for made in self._specialisations.values() for each in made]
        if what == "graph":
            return "\n\n".join(str(program.graph) for program, _ in specialisations)
        return "\n\n".join(run.show(what) for _, run in specialisations)


def compiler(backend: str, checked: bool) -> Callable[..., Executable]:
    """What makes a graph ready to run; `checked`: NaN or infinity that an operation makes is an error."""
    if not checked:
        return BACKENDS[backend]
    module, name = _CHECKED[backend]
    found: Callable[..., Executable] = getattr(on_demand(module), name)
    return found


def on_demand(module: str) -> Any:
    """A module of the package that few programs need, imported when one does."""
    return import_module(f"chainrule.{module}")


def is_checked(asked: bool | None) -> bool:
    """What was asked for, or else what the environment says: CHAINRULE_CHECKED=1."""
    return os.environ.get("CHAINRULE_CHECKED") == "1" if asked is None else asked


def compile(
    function: Callable[..., Any] | None = None, *, backend: str = "native", checked: bool | None = None
) -> Any:
    """Trace `function` into one graph per combination of shapes and dtypes and run it with `backend`.

    checked: look at everything that is computed, and raise `NumericalError` where an operation makes NaN or
    infinity out of other numbers; it names the operation, your line, the layer and the element. Slower by
    some ten percent to several times. Not given: CHAINRULE_CHECKED=1 says so for every program.

    Results are plain values. To differentiate, compile the gradient (`cr.compile(cr.value_and_grad(f))`) or
    take the gradient of the compiled function.

    >>> import chainrule as cr
    >>> double = cr.compile(lambda x: 2.0 * x)
    >>> double(cr.asarray([1.0, 2.0])).tolist()
    [2.0, 4.0]
    >>> cr.compile(lambda x: cr.sqrt(x), checked=True)(cr.asarray([1.0, -2.0]))
    Traceback (most recent call last):
    chainrule.errors.NumericalError: sqrt made nan at ...: element (1,) of float32[2], where it reads ...
    """
    if function is None:
        return lambda decorated: Compiled(decorated, backend, checked)
    return Compiled(function, backend, checked)


def _plain(value: Any) -> Tensor:
    array = own(value)
    status = PLAIN if array.dtype.kind == "f" else CONSTANT
    return Tensor(Node(None, (), {}, Type(array.shape, array.dtype), array, (), status))
