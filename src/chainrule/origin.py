"""Why a node exists.

Every node of a graph carries the reasons for which it was made: the user's line and the layer it was
written in, or "pullback of that node through operand k", or "sums the fan-out of that node", or "update of
that parameter". Error messages, profiles, the ledger and the explainer are all reads of these facts.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from types import CodeType
from typing import Any, NamedTuple

_PACKAGE = os.path.dirname(os.path.abspath(__file__)) + os.sep


class Origin(NamedTuple):
    """One reason why a node exists.

    `role` is "forward", "pullback", "fan-out", "update" or "recompute". `of` is the node whose derivative
    this one belongs to and `operand` the operand the derivative is taken through. `layer` is the dotted
    path of the layer ("layers.0"), `file` and `line` the user's own source line.
    """

    role: str = "forward"
    layer: str = ""
    file: str = ""
    line: int = 0
    of: Any = None
    operand: int | None = None

    def where(self) -> str:
        """``file.py:12`` (empty when no line of the user's was involved)."""
        return f"{os.path.basename(self.file)}:{self.line}" if self.file else ""

    def __str__(self) -> str:
        what = self.role
        if self.of is not None:
            through = "" if self.operand is None else f" through operand {self.operand}"
            what = f"{self.role} of {self.of.name}{through}"
        return " ".join(part for part in (what, self.layer and f"in {self.layer}", self.where()) if part)


_scopes: ContextVar[tuple[str, ...]] = ContextVar("chainrule_scopes", default=())
_reason: ContextVar[Origin | None] = ContextVar("chainrule_reason", default=None)
_inside: dict[CodeType, bool] = {}


@contextmanager
def scope(name: str) -> Iterator[None]:
    """Put `name` on the layer path of every operation made inside the block.

    >>> import chainrule as cr
    >>> with cr.scope("encoder"):
    ...     y = cr.exp(cr.asarray(1.0))
    >>> y.layer
    'encoder'
    """
    token = _scopes.set((*_scopes.get(), name))
    try:
        yield
    finally:
        _scopes.reset(token)


@contextmanager
def because(reason: Origin) -> Iterator[None]:
    """Give every node made inside the block `reason` as its origin."""
    token = _reason.set(reason)
    try:
        yield
    finally:
        _reason.reset(token)


def layer_path() -> str:
    """The dotted path of the scopes that are open now."""
    return ".".join(_scopes.get())


def current_origin() -> Origin:
    """The origin of a node that is made now."""
    reason = _reason.get()
    if reason is not None:
        return reason
    file, line = user_line()
    return Origin("forward", layer_path(), file, line)


def user_line() -> tuple[str, int]:
    """File and line of the innermost frame outside this package."""
    frame = sys._getframe(1)
    while frame is not None:
        code = frame.f_code
        inside = _inside.get(code)
        if inside is None:
            name = code.co_filename
            inside = _inside[code] = name.startswith((_PACKAGE, "<frozen")) or name.endswith("contextlib.py")
        if not inside:
            return code.co_filename, frame.f_lineno
        if frame.f_back is None:
            break
        frame = frame.f_back
    return "", 0
