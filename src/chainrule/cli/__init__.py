"""The command line: every verb is one call of the library, its result shown or written as JSON."""

from __future__ import annotations

from chainrule.cli.front import main

__all__ = ["main"]
