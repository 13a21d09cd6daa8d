"""The public names, pinned: a change to them is a decision, seen as a diff of golden/public_names.txt."""

import inspect
from collections.abc import Callable
from importlib import import_module
from types import ModuleType

import pytest

import chainrule
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
