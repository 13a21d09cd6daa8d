"""Module: a tree of named cells and the function they take part in.

Attributes are the fields: a Parameter, a Buffer or another Module that an attribute holds (directly, or in a
list, tuple or dict) belongs to the tree, under PyTorch's dotted path. Nothing is registered.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from typing import Any, NamedTuple, Self, TypeVar

import numpy as np

from chainrule.errors import ChainruleError, DTypeError, ShapeError
from chainrule.origin import at_user_line, scope
from chainrule.representation import html_of
from chainrule.tensor import Buffer, Cell, Parameter, Tensor

Kind = TypeVar("Kind", bound=Cell)
Observer = Callable[["Module", Any], None]


class Frozen(Buffer):
    """A Parameter at rest: state like a Buffer until `requires_grad_(True)` makes it a Parameter again."""

    __slots__ = ()


class Keys(NamedTuple):
    """What `load_state_dict(strict=False)` left out."""

    missing_keys: list[str]
    unexpected_keys: list[str]


class Module:
    """Base class of layers and models: assign fields in `__init__`, compute in `forward`.

    >>> import chainrule as cr
    >>> class Net(cr.nn.Module):
    ...     def __init__(self):
    ...         self.layers = [cr.nn.Linear(2, 3), cr.nn.Linear(3, 1)]
    ...     def forward(self, x):
    ...         first, last = self.layers
    ...         return last(cr.tanh(first(x)))
    >>> net = Net()
    >>> [path for path, _ in net.named_parameters()]
    ['layers.0.weight', 'layers.0.bias', 'layers.1.weight', 'layers.1.bias']
    >>> net(cr.ones((5, 2))).shape
    (5, 1)
    """

    training = True
    """False after `eval()`: Dropout passes everything, BatchNorm uses its running statistics."""

    def forward(self, *inputs: Any, **options: Any) -> Any:
        """What the module computes; every subclass that is called says it."""
        raise ChainruleError(
            f"{type(self).__name__} has no forward(): define it, or call the modules it holds{at_user_line()}"
        )

    def __call__(self, *inputs: Any, **options: Any) -> Any:
        """`forward`, with this module's path on the layer path of everything it computes."""
        caller = _running.get()
        path = "" if caller is None else caller.path_of(self)
        token = _running.set(Call(self))
        try:
            with scope(path) if path else nullcontext():
                output = self.forward(*inputs, **options)
                for observe in _observers.get():
                    observe(self, output)
                return output
        finally:
            _running.reset(token)

    def __setattr__(self, name: str, value: Any) -> None:
        held = vars(self).get(name)
        if isinstance(held, Cell) and not (value is None or isinstance(value, Cell)):
            kind = "Parameter" if isinstance(held, Parameter | Frozen) else "Buffer"
            raise ChainruleError(
                f"self.{name} of {type(self).__name__} is a {kind}; a {type(value).__name__} in its place "
                f"would take it out of the model{at_user_line()}. Write self.{name}.assign(value) to change "
                f"its value, self.{name} = cr.nn.{kind}(value) for a new one, or None to have none"
            )
        super().__setattr__(name, value)
        for path, held in _held(name, value):
            if isinstance(held, Cell):
                _name(held, path)
            else:
                for below, cell in held._named(Cell):
                    _name(cell, _join(path, below))

    # -- the tree ------------------------------------------------------------------------------------------
    def named_children(self) -> Iterator[tuple[str, Module]]:
        """(field, module) for the modules this one holds; "layers.0" for the first in a list `layers`."""
        return ((name, value) for name, value in _fields(self) if isinstance(value, Module))

    def children(self) -> Iterator[Module]:
        return (child for _, child in self.named_children())

    def named_modules(self, prefix: str = "", remove_duplicate: bool = True) -> Iterator[tuple[str, Module]]:
        """(path, module) for this module and all below it, a parent before its children."""
        return self._walk(prefix, set() if remove_duplicate else None)

    def _walk(self, path: str, seen: set[Module] | None) -> Iterator[tuple[str, Module]]:
        if seen is not None:
            if self in seen:
                return
            seen.add(self)
        yield path, self
        for name, child in self.named_children():
            yield from child._walk(_join(path, name), seen)

    def modules(self) -> Iterator[Module]:
        return (module for _, module in self.named_modules())

    def named_parameters(
        self, prefix: str = "", remove_duplicate: bool = True
    ) -> Iterator[tuple[str, Parameter]]:
        """(path, parameter) for everything that is trained.

        A parameter under several paths (tied weights) comes once, under the first; with
        ``remove_duplicate=False`` under each.
        """
        return self._named(Parameter, prefix, remove_duplicate)

    def parameters(self) -> Iterator[Parameter]:
        return (cell for _, cell in self.named_parameters())

    def named_buffers(self, prefix: str = "", remove_duplicate: bool = True) -> Iterator[tuple[str, Buffer]]:
        """(path, buffer) for all state that is not trained, frozen parameters included."""
        return self._named(Buffer, prefix, remove_duplicate)

    def buffers(self) -> Iterator[Buffer]:
        return (cell for _, cell in self.named_buffers())

    def _named(
        self, kind: type[Kind], prefix: str = "", remove_duplicate: bool = True
    ) -> Iterator[tuple[str, Kind]]:
        seen: set[Cell] = set()
        for place, module in self.named_modules(remove_duplicate=remove_duplicate):
            for name, value in _fields(module):
                if not isinstance(value, kind):
                    continue
                path = _join(place, name)
                if value not in seen:
                    seen.add(value)
                    _name(value, path)
                elif remove_duplicate:
                    continue
                yield _join(prefix, path), value

    # -- state ---------------------------------------------------------------------------------------------
    def state_dict(self) -> dict[str, Tensor]:
        """Path → value of every parameter and buffer, with PyTorch's names and layouts.

        Values are immutable, so this is a snapshot: later training does not change it.

        >>> import chainrule as cr
        >>> {path: value.shape for path, value in cr.nn.BatchNorm1d(2).state_dict().items()}
        {'weight': (2,), 'bias': (2,), 'running_mean': (2,), 'running_var': (2,), 'num_batches_tracked': ()}
        """
        return {path: cell.detach() for path, cell in self._named(Cell, remove_duplicate=False)}

    def load_state_dict(self, state: Mapping[str, Any], strict: bool = True) -> Keys:
        """Take over the values of `state` (NumPy arrays, Tensors, PyTorch tensors); dtypes stay as they are.

        Everything is checked before anything changes. With ``strict=False`` missing and unexpected paths are
        returned instead of refused; a wrong shape is always refused.
        """
        cells = dict(self._named(Cell, remove_duplicate=False))
        given = {cells[path] for path in state if path in cells}  # a tied cell needs only one of its names
        keys = Keys(
            [path for path, cell in cells.items() if cell not in given],
            [path for path in state if path not in cells],
        )
        values, problems = _fitting(cells, state)
        if strict:
            problems += [f"missing: {', '.join(keys.missing_keys)}"] if keys.missing_keys else []
            problems += [f"unexpected: {', '.join(keys.unexpected_keys)}"] if keys.unexpected_keys else []
        if problems:
            raise ShapeError(
                f"the state does not fit {type(self).__name__}, nothing was loaded{at_user_line()}. "
                + "; ".join(problems)
            )
        for cell, value in values.items():
            cell.assign(value)
        return keys

    def zero_grad(self) -> None:
        """Forget the gradients that `backward()` left in the parameters."""
        for parameter in self.parameters():
            parameter.grad = None

    # -- modes ---------------------------------------------------------------------------------------------
    def train(self, mode: bool = True) -> Self:
        """Switch this module and all below it to training (or, with False, evaluation)."""
        for module in self.modules():
            module.training = mode
        return self

    def eval(self) -> Self:
        """Switch this module and all below it to evaluation."""
        return self.train(False)

    def requires_grad_(self, requires_grad: bool = True) -> Self:
        """Freeze (False) or thaw (True) every parameter of this module and below.

        A frozen parameter is a Buffer: it keeps its place in `state_dict` and its identity, but neither
        `parameters()` nor the gradient of the model names it, and no derivative is computed for it. Freeze
        before building the optimizer or Trainer.
        """
        before, after = (Frozen, Parameter) if requires_grad else (Parameter, Frozen)
        for _, cell in self._named(Cell):
            if type(cell) is before:
                cell.__class__ = after  # the same object, so that tied weights stay tied
                cell.grad = None
                cell.assign(cell.detach())  # take part in differentiation as the new class says
        return self

    def to(self, dtype: Any) -> Self:
        """Convert every floating parameter and buffer, in place; integers stay."""
        if dtype not in (np.float32, np.float64, "float32", "float64"):
            raise DTypeError(f"to({dtype!r}): a model can be float32 or float64{at_user_line()}")
        for _, cell in self._named(Cell):
            cell.cast(dtype)
        return self

    def float(self) -> Self:
        """Convert to float32."""
        return self.to(np.float32)

    def double(self) -> Self:
        """Convert to float64."""
        return self.to(np.float64)

    def apply(self, function: Callable[[Module], Any]) -> Self:
        """Call `function` on every module below this one, children first, then on this one."""
        for child in self.children():
            child.apply(function)
        function(self)
        return self

    # -- text ----------------------------------------------------------------------------------------------
    def extra_repr(self) -> str:
        """What stands between the parentheses of the module's repr."""
        return ""

    def __repr__(self) -> str:
        lines = [f"({name}): {child!r}".replace("\n", "\n  ") for name, child in self.named_children()]
        if not lines:
            return f"{type(self).__name__}({self.extra_repr()})"
        return f"{type(self).__name__}({self.extra_repr()}\n  " + "\n  ".join(lines) + "\n)"

    def _repr_html_(self) -> str:
        """For notebooks: a table of the layers and their parameters."""
        return html_of("module", self)


class Call:
    """A module that is running: it knows the paths of the modules it may call."""

    def __init__(self, module: Module) -> None:
        self.module = module
        self._paths: dict[Module, str] | None = None

    def path_of(self, called: Module) -> str:
        """Path of `called` below the running module, "" if it is not one of its own."""
        if self._paths is None:
            self._paths = {}
            for path, module in self.module.named_modules():
                self._paths[module] = path
        return self._paths.get(called, "")


_running: ContextVar[Call | None] = ContextVar("chainrule_running_module", default=None)
_observers: ContextVar[tuple[Observer, ...]] = ContextVar("chainrule_module_observers", default=())


@contextmanager
def observing(observer: Observer) -> Iterator[None]:
    """Inside the block, call ``observer(module, output)`` whenever a module has computed its output."""
    token = _observers.set((*_observers.get(), observer))
    try:
        yield
    finally:
        _observers.reset(token)


def _fields(module: Module) -> Iterator[tuple[str, Cell | Module]]:
    """The cells and modules that the attributes of `module` hold, those in containers too."""
    for name, value in vars(module).items():
        yield from _held(name, value)


def _held(path: str, value: Any) -> Iterator[tuple[str, Cell | Module]]:
    if isinstance(value, Cell | Module):
        yield path, value
    elif isinstance(value, dict):
        for key, each in value.items():
            yield from _held(f"{path}.{key}", each)
    elif isinstance(value, list | tuple):
        for index, each in enumerate(value):
            yield from _held(f"{path}.{index}", each)


def _join(*parts: str) -> str:
    return ".".join(part for part in parts if part)


def _name(cell: Cell, path: str) -> None:
    """Call `cell` by its path, unless a larger model around this one has already given it a longer one."""
    if not f".{cell.name}".endswith(f".{path}"):
        cell.name = path


def _fitting(cells: Mapping[str, Cell], state: Mapping[str, Any]) -> tuple[dict[Cell, Any], list[str]]:
    """The values of `state` by cell, and what is wrong with them."""
    values: dict[Cell, Any] = {}
    problems: list[str] = []
    for path, cell in cells.items():
        if path not in state:
            continue
        value = np.asarray(state[path].detach() if hasattr(state[path], "detach") else state[path])
        if value.dtype.kind not in "fiub":
            problems.append(f"{path} holds {value.dtype}, not numbers")
        elif value.shape != cell.shape:
            problems.append(f"{path} has shape {value.shape}, the model needs {cell.shape}")
        elif cell in values and not np.array_equal(values[cell], value, equal_nan=True):
            problems.append(f"{path} and {cell.name} are one tied parameter, but their values differ")
        else:
            values[cell] = value.astype(cell.dtype)
    return values, problems
