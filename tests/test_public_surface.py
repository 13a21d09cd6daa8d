"""The public names, pinned: a change to them is a decision, seen as a diff of golden/public_names.txt."""

import ast
import inspect
from collections.abc import Callable
from importlib import import_module
from types import ModuleType

import pytest

import chainrule
from chainrule.functions import PUBLIC
from chainrule.primitives import REGISTRY
from tools import stubs
from tools.architecture import SOURCE

NAMESPACES = ("chainrule", "chainrule.random")

# What programs outside rely on whatever else changes (docs/design.md, "The contract").
CONTRACT = """
    Tensor Trainer asarray checkpoint compile concat custom_vjp data exp fit grad hessian jacobian jvp matmul
    nn optim random scan scope stop_gradient sum take value_and_grad vjp where
"""


def public_names(namespace: ModuleType) -> list[str]:
    """What the module offers: its `__all__`, or what it defines itself; the face answers `dir()` itself."""
    if namespace is chainrule:
        names = dir(chainrule)
    else:
        own = [name for name, value in vars(namespace).items() if defined_in(namespace, value)]
        names = getattr(namespace, "__all__", own)
    return sorted(name for name in names if not name.startswith("_"))


def defined_in(namespace: ModuleType, value: object) -> bool:
    return getattr(value, "__module__", None) == namespace.__name__


def test_public_names_are_the_pinned_ones(golden: Callable[[str, str], None]) -> None:
    names = [f"{space}.{name}" for space in NAMESPACES for name in public_names(import_module(space))]
    golden("public_names.txt", "\n".join(names) + "\n")


def test_the_contract_is_kept() -> None:
    assert set(CONTRACT.split()) <= set(public_names(chainrule))


@pytest.mark.parametrize("name", public_names(chainrule))
def test_every_public_name_is_there_and_documented(name: str) -> None:
    found = getattr(chainrule, name)
    if callable(found):
        assert inspect.getdoc(found)


def test_no_submodule_takes_the_name_of_a_public_function() -> None:
    # Importing chainrule.x sets the attribute x of chainrule: a function of that name would be gone.
    submodules = {path.name.removesuffix(".py") for path in SOURCE.iterdir()}
    functions = set(public_names(chainrule)) - set(chainrule._MODULES)
    assert not submodules & functions


@pytest.mark.parametrize("name", ["data", "train"])
def test_no_module_takes_the_name_of_what_its_package_loads_on_first_use(name: str) -> None:
    loaded = import_module(f"chainrule.{name}")._HOMES
    assert not {path.stem for path in (SOURCE / name).iterdir()} & set(loaded)


def test_what_is_written_from_the_records_is_fresh() -> None:
    """Run `python -m tools.stubs` after changing a record or the face."""
    assert stubs.stale() == []


def test_type_checkers_see_every_public_name_and_no_other() -> None:
    tree = ast.parse((SOURCE / "__init__.pyi").read_text(encoding="utf-8"))
    seen = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
    seen |= {
        alias.asname for node in tree.body if isinstance(node, ast.ImportFrom) for alias in node.names
    } - {None}
    assert seen == set(public_names(chainrule))


@pytest.mark.parametrize("name", PUBLIC)
def test_typed_signatures_are_the_ones_that_run(name: str) -> None:
    """The stub's parameters, read as Python, bind what the function's own signature binds."""
    tree = ast.parse(stubs.stub(REGISTRY[name]))
    (function,) = tree.body
    assert isinstance(function, ast.FunctionDef)
    written = function.args
    names = [each.arg for each in (*written.posonlyargs, *written.args)]
    names += [written.vararg.arg] if written.vararg else []
    assert names == list(inspect.signature(getattr(chainrule, name)).parameters)
