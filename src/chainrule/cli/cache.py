"""`chainrule cache`: the compiled code that is kept for the next start."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from chainrule.backends.native.cache import LIMIT, Cache
from chainrule.cli.options import Json, write_json
from chainrule.show.figures import counted


def cache(
    clear: Annotated[bool, typer.Option("--clear", help="Remove it; the next start compiles anew.")] = False,
    json: Json = False,
) -> None:
    """Show where compiled code is kept and how much of the disk it takes, or remove it."""
    kept = Cache()
    usage = kept.clear() if clear else kept.usage()
    if json:
        document = {"folder": str(kept.folder), "files": usage.files, "bytes": usage.bytes}
        write_json({**document, "limit": LIMIT, "cleared": clear})
        return
    what = f"{counted(usage.files, 'object file')}, {usage.bytes / 1e6:.1f} MB"
    if clear:
        sys.stdout.write(f"removed {what}, from {kept.folder}\n")
    else:
        sys.stdout.write(f"{kept.folder}\n{what} (at most {LIMIT / 1e6:.0f} MB)\n")
