"""Who writes the function of each kind of kernel.

They are imported when a function is written, not before: a program that is in the cache starts without them.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any

from chainrule.backends.native.emit import Emitted, Module
from chainrule.backends.native.target import Target
from chainrule.schedule.kernels import Contraction, Loops, Special


class Writer:
    """``emit(module, name, kernel, target)`` of a module of this package."""

    def __init__(self, module: str, function: str) -> None:
        self.__module__, self.__qualname__ = f"chainrule.backends.native.{module}", function

    def __call__(self, module: Module, name: str, kernel: Any, target: Target) -> Emitted:
        emitted: Emitted = getattr(import_module(self.__module__), self.__qualname__)(
            module, name, kernel, target
        )
        return emitted


EMITTERS: Mapping[type, Writer] = {
    Loops: Writer("loops", "emit_loops"),
    Contraction: Writer("contraction", "emit_contraction"),
    Special: Writer("special", "emit_special"),
}
