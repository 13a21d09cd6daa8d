"""Writes what is derived from the records: the typed face of the package and the table of array functions.

`python -m tools.stubs` writes src/chainrule/__init__.pyi, which type checkers and editors read in the place
of the lazy `__init__.py`, and docs/primitives.md. Both are checked in; a test fails when they are stale.
"""

import inspect
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import chainrule
from chainrule.functions import PUBLIC, signature_of
from chainrule.primitive import Composite, Primitive
from chainrule.primitives import FAMILIES, REGISTRY
from tools.architecture import ROOT, SOURCE

Record = Primitive | Composite

# What a parameter takes, where the record itself only says Any.
TYPES = {
    "axis": "_Axis",
    "axes": "_Axes",
    "shape": "int | Sequence[int]",
    "dtype": "_DType",
    "arrays": "Sequence[_Array]",
    "subscripts": "str",
    "pad_width": "int | Sequence[int] | Sequence[Sequence[int]]",
    "min": "_Array | None",
    "max": "_Array | None",
}
HEADER = '''"""The public names, typed. Written by `python -m tools.stubs`; change records or face instead."""

import builtins
from collections.abc import Sequence
from typing import Any

import numpy as np
'''
ALIASES = """
_Array = Tensor | np.ndarray[Any, Any] | np.generic | builtins.bool | int | float | Sequence[Any]
_Axis = int | Sequence[int] | None
_Axes = int | Sequence[int] | Sequence[Sequence[int]]
_DType = Any  # a NumPy dtype, its name, or a scalar type such as cr.float32

__version__: str
"""


def face() -> str:
    """The text of `__init__.pyi`."""
    lazy = vars(chainrule)  # the lists the face loads names by; the stub, which checkers read, hides them
    homes = [f"from chainrule.{home} import {name} as {name}" for name, home in lazy["_HOMES"].items()]
    modules = [f"from chainrule import {name} as {name}" for name in lazy["_MODULES"]]
    constants = [f"from numpy import {name} as {name}" for name in lazy["_CONSTANTS"]]
    functions = [stub(REGISTRY[name]) for name in PUBLIC]
    imports = sorted([*homes, *modules, *constants])
    return "\n".join([HEADER, *imports, ALIASES, *functions]) + "\n"


def stub(record: Record) -> str:
    """The typed signature of one array function."""
    written = inspect.signature(record.surface).parameters if record.surface is not None else {}
    parameters = signature_of(record).parameters.values()
    listed = ", ".join(_listed([each.replace(annotation=_type(each, written)) for each in parameters]))
    return f'def {record.name}({listed}) -> Tensor:\n    """{record.doc}"""\n'


def _type(parameter: inspect.Parameter, written: Any) -> str:
    annotation = written[parameter.name].annotation if parameter.name in written else "Any"
    if annotation in ("Any", inspect.Parameter.empty):
        return TYPES.get(parameter.name, "_Array")
    return re.sub(r"\bbool\b", "builtins.bool", str(annotation))  # `bool` is NumPy's in the face


def _listed(parameters: list[inspect.Parameter]) -> Iterator[str]:
    positional = [each for each in parameters if each.kind is inspect.Parameter.POSITIONAL_ONLY]
    for each in parameters:
        star = "*" if each.kind is inspect.Parameter.VAR_POSITIONAL else ""
        simple = isinstance(each.default, bool | int | float | str | None)
        default = "" if each.default is each.empty else f" = {each.default!r}" if simple else " = ..."
        yield f"{star}{each.name}: {each.annotation}{default}"
        if positional and each is positional[-1]:
            yield "/"


# -- the table -----------------------------------------------------------------------------------------------
INTRODUCTION = """# Array functions

Every function is told once, in a record under `src/chainrule/primitives`; this page, the functions, their
types and the laws they are held to are derived from those records. Written by `python -m tools.stubs`.

*Derivative*: "flows" where a rule of its own carries a cotangent back, "through its parts" for one that is
only a combination of others, "none" where it is zero or does not exist (relations, rounding, indices).
"""


def table() -> str:
    """The text of docs/primitives.md."""
    sections = [INTRODUCTION]
    for family, records in FAMILIES.items():
        rows = [
            _row(record) for record in sorted(records, key=lambda each: each.name) if record.name in PUBLIC
        ]
        if rows:
            head = ["| function | | derivative |", "|---|---|---|"]
            sections.append("\n".join([f"## {family.capitalize()}", "", *head, *rows, ""]))
    return "\n".join(sections)


def _row(record: Record) -> str:
    names = ", ".join(_names(record))
    doc = record.doc.replace("|", "\\|")
    return f"| `cr.{record.name}({names})` | {doc} | {_derivative(record)} |"


def _names(record: Record) -> Iterator[str]:
    for each in signature_of(record).parameters.values():
        star = "*" if each.kind is inspect.Parameter.VAR_POSITIONAL else ""
        default = getattr(each.default, "__name__", repr(each.default))
        yield f"{star}{each.name}" + ("" if each.default is each.empty else f"={default}")


def _derivative(record: Record) -> str:
    if isinstance(record, Composite):
        return "through its parts"
    return "flows" if record.differentiable else "none"


GENERATED: dict[Path, Callable[[], str]] = {
    SOURCE / "__init__.pyi": face,
    ROOT / "docs" / "primitives.md": table,
}


def stale() -> list[Path]:
    """The generated files that differ from what would be written now."""
    return [
        path
        for path, write in GENERATED.items()
        if not path.exists() or path.read_text(encoding="utf-8") != write()
    ]


def main() -> int:
    """Writes what is stale and names it."""
    for path in stale():
        path.write_text(GENERATED[path](), encoding="utf-8")
        print(f"wrote {path.relative_to(ROOT)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
