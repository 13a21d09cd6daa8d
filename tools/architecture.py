"""Reads the shape of src/chainrule: its modules, what they import and where, and which code is long."""

import ast
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FunctionNode = ast.FunctionDef | ast.AsyncFunctionDef
ROOT = Path(__file__).resolve().parent.parent
PACKAGE = "chainrule"
SOURCE = ROOT / "src" / PACKAGE
TABLE = ROOT / "tests" / "architecture.toml"


def table() -> dict[str, Any]:
    """The written architecture: floors, and the reasons for long code."""
    return tomllib.loads(TABLE.read_text(encoding="utf-8"))


@dataclass(frozen=True)
class Import:
    """One imported module, the line that imports it, and the function it happens in (None: module level)."""

    module: str
    line: int
    function: str | None


@dataclass(frozen=True)
class Function:
    """A function or method and how many lines it spans, from `def` to its last line."""

    name: str
    lines: int


class SourceFile:
    """One parsed file of the package.

    `name` is the dotted module name; a package has the name of its folder.
    """

    def __init__(self, path: Path, source: Path = SOURCE) -> None:
        self.path = path.relative_to(source).as_posix()
        parts = [source.name, *path.relative_to(source).with_suffix("").parts]
        self.is_package = parts[-1] == "__init__"
        self.name = ".".join(parts[:-1] if self.is_package else parts)
        self.text = path.read_text(encoding="utf-8")
        self.tree = ast.parse(self.text, filename=str(path))

    @property
    def lines(self) -> int:
        """How many lines the file has."""
        return len(self.text.splitlines())

    def imports(self, modules: frozenset[str]) -> list[Import]:
        """Everything this file imports, `if TYPE_CHECKING:` blocks included.

        `from chainrule.graph import Node` imports the module chainrule.graph; `from chainrule import graph`
        imports it too, which only the set of the package's `modules` can tell.
        """
        found: list[Import] = []
        for node, function in _walk(self.tree, None):
            if isinstance(node, ast.Import):
                found += [Import(alias.name, node.lineno, function) for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                base = self._absolute(node)
                for alias in node.names:
                    deeper = f"{base}.{alias.name}"
                    found.append(Import(deeper if deeper in modules else base, node.lineno, function))
            elif isinstance(node, ast.Call) and _called_name(node) in {"import_module", "__import__"}:
                named = [leaf.value for leaf in ast.walk(node) if isinstance(leaf, ast.Constant)]
                found += [Import(str(name), node.lineno, function) for name in named or ["(computed name)"]]
        return found

    def functions(self) -> list[Function]:
        """Every function and method, named as in `Class.method`."""
        return [
            Function(name, (node.end_lineno or node.lineno) - node.lineno + 1)
            for node, name in _named_functions(self.tree, "")
        ]

    def _absolute(self, node: ast.ImportFrom) -> str:
        if node.level == 0:
            return node.module or ""
        package = self.name.split(".") if self.is_package else self.name.split(".")[:-1]
        anchor = package[: len(package) - node.level + 1]
        return ".".join([*anchor, *([node.module] if node.module else [])])


def source_files(source: Path = SOURCE) -> list[SourceFile]:
    """Every Python file of the package, in a fixed order."""
    return [SourceFile(path, source) for path in sorted(source.rglob("*.py"))]


def floor_of(module: str, floors: list[dict[str, Any]]) -> int | None:
    """The floor a module of the package stands on, counted from the bottom; None for one not in the table."""
    below_package = module.split(".")[1:2]
    for height, floor in enumerate(floors):
        if below_package and below_package[0] in floor["modules"]:
            return height
    return None


def find_cycle(edges: dict[str, set[str]]) -> list[str] | None:
    """A circle in a directed graph, as the modules on the way round with the first repeated, or None."""
    finished: set[str] = set()

    def visit(node: str, trail: list[str]) -> list[str] | None:
        if node in trail:
            return [*trail[trail.index(node) :], node]
        if node in finished:
            return None
        for successor in sorted(edges.get(node, ())):
            if circle := visit(successor, [*trail, node]):
                return circle
        finished.add(node)
        return None

    for start in sorted(edges):
        if circle := visit(start, []):
            return circle
    return None


def _walk(node: ast.AST, function: str | None) -> Iterator[tuple[ast.AST, str | None]]:
    """Every node below `node` with the name of the outermost function around it."""
    for child in ast.iter_child_nodes(node):
        inside = function
        if inside is None and isinstance(child, FunctionNode):
            inside = child.name
        elif inside is None and isinstance(child, ast.Lambda):
            inside = "<lambda>"
        yield child, inside
        yield from _walk(child, inside)


def _named_functions(node: ast.AST, prefix: str) -> Iterator[tuple[FunctionNode, str]]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, FunctionNode | ast.ClassDef):
            name = f"{prefix}{child.name}"
            if not isinstance(child, ast.ClassDef):
                yield child, name
            yield from _named_functions(child, f"{name}.")
        else:
            yield from _named_functions(child, prefix)


def _called_name(node: ast.Call) -> str:
    match node.func:
        case ast.Attribute(attr=name) | ast.Name(id=name):
            return name
        case _:
            return ""
