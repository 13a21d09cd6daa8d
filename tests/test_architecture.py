"""The shape of src/chainrule: floors, circles, imports inside functions, long code, what an import costs.

The floors and the reasons for long code are written in architecture.toml beside this file.
"""

import subprocess
import sys

import pytest

from tools.architecture import PACKAGE, SourceFile, find_cycle, floor_of, source_files, table

FACE = PACKAGE  # chainrule/__init__.py: it loads submodules on first use, so it stands outside the floors
LONG_FILE = 400
LONG_FUNCTION = 50

# Heavy or optional libraries may be imported where they are first used: `import chainrule` pulls numpy alone.
IMPORTED_IN_FUNCTIONS = {
    "altair",
    "duckdb",
    "jax",
    "llvmlite",
    "rich",
    "safetensors",
    "scipy",
    "sklearn",
    "tomli_w",
    "torch",
    "typer",
    "vl_convert",
}

FILES = source_files()
MODULES = frozenset(file.name for file in FILES)
TABLE = table()
FLOORS = TABLE["floor"]


def internal(file: SourceFile) -> list[tuple[str, int]]:
    """The modules of the package that a file imports, with the line."""
    return [
        (found.module, found.line)
        for found in file.imports(MODULES)
        if found.module.split(".")[0] == PACKAGE and found.module != file.name
    ]


def complain(problems: list[str], cure: str) -> None:
    if problems:
        pytest.fail("\n".join([*sorted(problems), "", cure]), pytrace=False)


def test_every_module_stands_on_a_floor() -> None:
    lost = [file.path for file in FILES if file.name != FACE and floor_of(file.name, FLOORS) is None]
    complain(lost, "Add the module to a floor in tests/architecture.toml.")


def test_no_module_imports_from_a_floor_above() -> None:
    problems = []
    for file in FILES:
        height = floor_of(file.name, FLOORS)
        if height is None:
            continue
        for module, line in internal(file):
            other = floor_of(module, FLOORS)
            if module == FACE or (other is not None and other > height):
                problems.append(f"{file.path}:{line} imports {module}, which stands above it")
    complain(problems, "Move what is shared to the lower floor, or pass it in as an argument.")


def test_no_import_cycles() -> None:
    edges = {file.name: {module for module, _ in internal(file)} for file in FILES if file.name != FACE}
    circle = find_cycle(edges)
    complain([" → ".join(circle)] if circle else [], "Move what both ends need into a module below them.")


def test_primitives_never_import_each_other() -> None:
    package = f"{PACKAGE}.primitives"
    problems = [
        f"{file.path}:{line} imports {module}"
        for file in FILES
        if file.name.startswith(f"{package}.")
        for module, line in internal(file)
        if module.startswith(package) and module != f"{package}._define"
    ]
    complain(
        problems, "A primitive is told once, in one record; what records share goes to primitives/_define.py."
    )


def test_imports_inside_functions_are_heavy_libraries_at_the_edges() -> None:
    problems = []
    for file in FILES:
        for found in file.imports(MODULES):
            heavy = found.module.split(".")[0] in IMPORTED_IN_FUNCTIONS
            named = f"{file.path}::{found.function}" in TABLE["imports_by_name"]
            if found.function is not None and not heavy and not named and file.name != FACE:
                problems.append(f"{file.path}:{found.line} imports {found.module} inside {found.function}()")
    complain(problems, "Import it at the top of the file.")


def test_long_code_has_a_written_reason() -> None:
    long_files = {file.path for file in FILES if file.lines > LONG_FILE}
    long_functions = {
        f"{file.path}::{function.name}"
        for file in FILES
        for function in file.functions()
        if function.lines > LONG_FUNCTION
    }
    files, functions = TABLE["long_files"], TABLE["long_functions"]
    long, reasons = long_files | long_functions, {**files, **functions}
    problems = (
        [f"{path} has over {LONG_FILE} lines" for path in long_files - files.keys()]
        + [f"{name} has over {LONG_FUNCTION} lines" for name in long_functions - functions.keys()]
        + [f"{name} is listed as long and is not" for name in reasons.keys() - long]
        + [f"{name} needs a reason in words" for name, why in reasons.items() if len(why.split()) < 4]
    )
    complain(problems, "Split it along a real seam, or write the reason in tests/architecture.toml.")


def test_importing_chainrule_pulls_numpy_alone() -> None:
    program = (
        "import sys; bare = set(sys.modules)\n"
        "import chainrule\n"
        "print(*{name.split('.')[0] for name in sys.modules if name not in bare})"
    )
    finished = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    third_party = set(finished.stdout.split()) - sys.stdlib_module_names - {PACKAGE}
    assert third_party <= {"numpy"}
