"""LLVM assembly → an object file's bytes → functions that can be called.

The object is position-independent, so that its bytes can be kept on disk and loaded by any later process;
loading takes about a millisecond. No pass pipeline runs over the assembly: the emitters write vector code as
it shall run, and the pipeline would cost more time than everything else together.
"""

from __future__ import annotations

import ctypes
import gc
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import numpy as np

from chainrule.backends.native.target import Target

_CODEGEN = 2
"""Optimisation level of instruction selection, scheduling and register allocation."""


def compile_object(text: str, target: Target) -> bytes:
    """The object file of a module in LLVM's assembly language.

    Raises RuntimeError, with LLVM's own words, for a module that breaks the rules of the language.
    """
    _, parsed = _parsed(text)
    made: bytes = _machine(target).emit_object(parsed)
    if made.startswith(_ELF) and not _lies_together(made):
        # LLVM will choose where its sections lie: addresses of 64 bits reach everywhere.
        _, parsed = _parsed(text)
        made = _machine(target, far=True).emit_object(parsed)
    return made


def assembly(text: str, target: Target, function: str = "") -> str:
    """The same code as the processor's instructions, for people: all of it, or one function."""
    _, parsed = _parsed(text)
    made: str = _machine(target).emit_assembly(parsed)
    if not function:
        return made
    found = re.search(rf"^_?{re.escape(function)}:.*?(?=^\.?Lfunc_end)", made, re.MULTILINE | re.DOTALL)
    return found[0] if found else ""


class Code:
    """An object file in the memory of this process. Its functions live as long as it does."""

    def __init__(self, content: bytes, target: Target) -> None:
        llvm, empty = _parsed("")
        self._engine = llvm.create_mcjit_compiler(empty, _machine(target), use_lmm=_lies_together(content))
        self._engine.add_object_file(llvm.ObjectFileRef.from_data(content))
        self._engine.finalize_object()

    def address(self, name: str) -> int:
        """Where the function `name` begins."""
        found: int = self._engine.get_function_address(name)
        if not found:
            raise KeyError(f"the object has no function {name!r}")
        return found

    def function(self, name: str, *arguments: Any, result: Any = None) -> Callable[..., Any]:
        """The function `name` on these ctypes; the interpreter is free for other threads while it runs."""
        return ctypes.CFUNCTYPE(result, *arguments)(self.address(name))


# What is read of an ELF file's headers, see elf(5).
_SECTION = np.dtype(
    {
        "names": ["type", "at", "size"],
        "formats": ["<u4", "<u8", "<u8"],
        "offsets": [4, 24, 32],
        "itemsize": 64,
    }
)
_SYMBOL = np.dtype({"names": ["section"], "formats": ["<u2"], "offsets": [6], "itemsize": 24})
_SYMBOL_TABLE = 2
_ELF = b"\x7fELF\2\1"


def _lies_together(content: bytes) -> bool | None:
    """True if the sections of an object shall be loaded side by side; None where LLVM decides.

    LLVM takes memory for each section wherever there is some. In a process whose address space is crowded,
    code may come to lie more than 2 GB from its constants, and LLVM ends the process. llvmlite's own memory
    manager takes it all at once, but has no room for what calls of functions elsewhere need on x86: objects
    that have any (in ELF: a symbol of no section besides the first) are left to LLVM, with addresses of 64
    bits in their code.
    """
    if not content.startswith(_ELF):
        return None
    start, count = int.from_bytes(content[40:48], "little"), int.from_bytes(content[60:62], "little")
    for section in np.frombuffer(content, _SECTION, count, start):
        if section["type"] == _SYMBOL_TABLE:
            symbols = np.frombuffer(content, _SYMBOL, section["size"] // _SYMBOL.itemsize, section["at"])
            if not symbols["section"][1:].all():
                return None
    return True


@contextmanager
def collection_paused() -> Iterator[None]:
    """No garbage collection inside.

    Building makes many objects that live, and a search for dead ones takes longer than making them.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def llvm_version() -> str:
    """Which LLVM compiles."""
    import llvmlite

    return f"llvmlite {llvmlite.__version__}, LLVM {'.'.join(map(str, _llvm().llvm_version_info))}"


@cache
def _llvm() -> Any:
    """llvmlite, ready to make code for this kind of processor."""
    import llvmlite.binding as llvm

    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    return llvm


def _parsed(text: str) -> tuple[Any, Any]:
    llvm = _llvm()
    return llvm, llvm.parse_assembly(text)


def _machine(target: Target, far: bool = False) -> Any:
    # A machine is never shared: an execution engine takes the one it is given over.
    chosen = _llvm().Target.from_triple(target.triple)
    return chosen.create_target_machine(
        cpu=target.cpu,
        features=target.features,
        opt=_CODEGEN,
        reloc="static" if far else "pic",
        codemodel="large" if far else "default",
    )
