"""Why a node exists.

Every node of a graph carries the reasons for which it was made: the user's line and the layer it was
written in, or "pullback of that node through operand k", or "sums the fan-out of that node", or "update of
that parameter". Error messages, profiles, the ledger and the explainer are all reads of these facts.
"""

from __future__ import annotations

import os
import sys
from contextvars import ContextVar, Token
from types import FrameType
from typing import Any, NamedTuple

_PACKAGE = os.path.dirname(os.path.abspath(__file__)) + os.sep
_MACHINERY = (f"{os.sep}contextlib.py", f"{os.sep}functools.py")


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


_path: ContextVar[str] = ContextVar("chainrule_layer_path", default="")
_reason: ContextVar[Origin | None] = ContextVar("chainrule_reason", default=None)
_inside: dict[str, bool] = {}  # file name → is it the package's own (or Python's machinery)?


class scope:  # noqa: N801 - used as a statement: `with cr.scope("encoder"):`
    """Put `name` on the layer path of every operation made inside the block.

    >>> import chainrule as cr
    >>> with cr.scope("encoder"):
    ...     y = cr.exp(cr.asarray(1.0))
    >>> y.layer
    'encoder'
    """

    __slots__ = ("_tokens", "name")

    def __init__(self, name: str) -> None:
        self.name = name
        self._tokens: list[Token[str]] = []

    def __enter__(self) -> None:
        outer = _path.get()
        self._tokens.append(_path.set(f"{outer}.{self.name}" if outer else self.name))

    def __exit__(self, *_: object) -> None:
        _path.reset(self._tokens.pop())


class because:  # noqa: N801 - used as a statement, like `scope`
    """Give every node made inside the block `reason` as its origin."""

    __slots__ = ("_tokens", "reason")

    def __init__(self, reason: Origin) -> None:
        self.reason = reason
        self._tokens: list[Token[Origin | None]] = []

    def __enter__(self) -> None:
        self._tokens.append(_reason.set(self.reason))

    def __exit__(self, *_: object) -> None:
        _reason.reset(self._tokens.pop())


def layer_path() -> str:
    """The dotted path of the scopes that are open now."""
    return _path.get()


def current_origin() -> Origin:
    """The origin of a node that is made now."""
    reason = _reason.get()
    if reason is not None:
        return reason
    file, line = user_line()
    return Origin("forward", _path.get(), file, line)


def layer_origins() -> tuple[Origin, ...]:
    """The origins of a value without history: the layer, if any; finding the line would cost too much."""
    layer = _path.get()
    return (Origin("forward", layer),) if layer else ()


def user_line() -> tuple[str, int]:
    """File and line of the innermost frame outside this package."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        name = frame.f_code.co_filename
        inside = _inside.get(name)
        if inside is None:
            machinery = name.startswith("<frozen") or name.endswith(_MACHINERY)
            inside = _inside[name] = machinery or name.startswith(_PACKAGE)
        if not inside:
            return name, frame.f_lineno
        frame = frame.f_back
    return "", 0


def at_user_line() -> str:
    """`` (at file.py:12, in layer encoder)``, the place an error message names; "" where there is none."""
    file, line = user_line()
    layer = _path.get()
    parts = ([f"at {file}:{line}"] if file else []) + ([f"in layer {layer}"] if layer else [])
    return f" ({', '.join(parts)})" if parts else ""
