"""Modules made of modules."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Self

from chainrule.errors import ShapeError
from chainrule.nn.module import Module
from chainrule.ops import as_node, ops
from chainrule.origin import at_user_line
from chainrule.tensor import Tensor


class Indexed(Module):
    """Modules in order, under the names "0", "1", …: what Sequential and ModuleList share."""

    def __init__(self, modules: Iterable[Module]) -> None:
        self.extend(modules)

    def append(self, module: Module) -> Self:
        """Add a module at the end."""
        if not isinstance(module, Module):
            raise TypeError(
                f"{type(self).__name__} holds modules, not {type(module).__name__}{at_user_line()}; "
                "for a function write a Module whose forward calls it"
            )
        setattr(self, str(len(self)), module)
        return self

    def extend(self, modules: Iterable[Module]) -> Self:
        """Add modules at the end."""
        for module in modules:
            self.append(module)
        return self

    def __len__(self) -> int:
        return len(self._names())

    def __iter__(self) -> Iterator[Module]:
        return iter([vars(self)[name] for name in self._names()])

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return type(self)._of(list(self)[index])
        return vars(self)[self._name_at(index)]

    def __setitem__(self, index: int, module: Module) -> None:
        setattr(self, self._name_at(index), module)

    def _names(self) -> list[str]:
        return [name for name, value in vars(self).items() if isinstance(value, Module)]

    def _name_at(self, index: int) -> str:
        try:
            return self._names()[index]
        except IndexError:
            raise IndexError(
                f"module {index} of a {type(self).__name__} of {len(self)}{at_user_line()}"
            ) from None

    @classmethod
    def _of(cls, modules: list[Module]) -> Self:
        return cls(modules)


class ModuleList(Indexed):
    """A list of modules; iterate over it in the `forward` of the module that holds it."""

    def __init__(self, modules: Iterable[Module] = ()) -> None:
        super().__init__(modules)


class Sequential(Indexed):
    """Modules one after the other. One dict instead of modules gives them names of your own.

    >>> import chainrule as cr
    >>> model = cr.nn.Sequential(cr.nn.Linear(8, 16), cr.nn.ReLU(), cr.nn.Linear(16, 1))
    >>> model
    Sequential(
      (0): Linear(in_features=8, out_features=16, bias=True)
      (1): ReLU()
      (2): Linear(in_features=16, out_features=1, bias=True)
    )
    >>> model(cr.ones((3, 8))).shape
    (3, 1)
    """

    def __init__(self, *modules: Module | Mapping[str, Module]) -> None:
        if len(modules) == 1 and isinstance(modules[0], Mapping):
            super().__init__(())
            for name, module in modules[0].items():
                setattr(self, name, module)
        else:
            super().__init__(modules)  # type: ignore[arg-type]  # append refuses what is no Module

    @classmethod
    def _of(cls, modules: list[Module]) -> Self:
        return cls(*modules)

    def forward(self, input: Any) -> Any:
        for module in self:
            input = module(input)
        return input


class Residual(Module):
    """``x + body(x)``, or ``shortcut(x) + body(x)`` where the shapes differ (He et al., 2016).

    >>> import chainrule as cr
    >>> cr.nn.Residual(cr.nn.Linear(4, 4))(cr.ones((2, 4))).shape
    (2, 4)
    """

    def __init__(self, body: Module, shortcut: Module | None = None) -> None:
        self.body = body
        self.shortcut = shortcut

    def forward(self, input: Any) -> Tensor:
        kept = as_node(input if self.shortcut is None else self.shortcut(input))
        added = as_node(self.body(input))
        if added.shape != kept.shape:
            raise ShapeError(
                f"Residual: the body gives shape {added.shape}, which cannot be added to {kept.shape}"
                f"{at_user_line()}. Make the shapes equal, or pass shortcut=cr.nn.Linear(...)"
            )
        return Tensor(ops.add(kept, added))
