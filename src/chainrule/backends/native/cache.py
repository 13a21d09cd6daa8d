"""Object files on disk, by what they were made from, so that the second start compiles nothing.

An entry is one file: a line that says what it is, the SHA-256 of the rest, a line of facts as JSON, and the
object. It appears by renaming, so readers see all of it or nothing; what a crash or a full disk left damaged
does not match its checksum and is made anew. Nothing that can go wrong here stops a program: it runs without
cache.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
import warnings
from contextlib import suppress
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

from chainrule import atomic
from chainrule.backends.native.build import compile_object, llvm_version
from chainrule.backends.native.target import Target
from chainrule.errors import RunError

LIMIT = 256_000_000
"""Bytes that are kept, about; beyond, what was not used for the longest time is removed."""
_stored_since: dict[Path, int] = {}
"""Bytes that this process has stored in a folder since it looked how much is there."""
_MAGIC = b"chainrule object 1"
_SUFFIX = ".object"
_STALE = 3600.0
"""Seconds after which a file that is still being written was left behind by a process that died."""
_FRESH = 3600.0
"""Seconds in which one more use need not be noted: the order of removal is no finer than that."""

_BEGUN = time.time()


class Entry(NamedTuple):
    """What was found: facts about an object file, and its bytes."""

    facts: Any
    content: bytes


class Usage(NamedTuple):
    """How much of the disk is taken."""

    files: int
    bytes: int


def default_folder() -> Path:
    """$CHAINRULE_CACHE, else the folder for caches that the platform provides."""
    chosen = os.environ.get("CHAINRULE_CACHE")
    if chosen:
        return Path(chosen)
    try:
        home = Path.home()
    except RuntimeError:  # a user without a home, as in some containers
        home = Path(tempfile.gettempdir())
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or home / "AppData" / "Local") / "chainrule" / "cache"
    if sys.platform == "darwin":
        return home / "Library" / "Caches" / "chainrule"
    return Path(os.environ.get("XDG_CACHE_HOME") or home / ".cache") / "chainrule"


class Cache:
    """The object files in one folder.

    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     cache = Cache(Path(folder))
    ...     cache.store("5a", {"units": [4]}, b"code")
    ...     cache.load("5a"), cache.load("5b"), cache.usage().files
    (Entry(facts={'units': [4]}, content=b'code'), None, 1)
    """

    def __init__(self, folder: Path | None = None, limit: int = LIMIT) -> None:
        self.folder = default_folder() if folder is None else folder
        self._limit = limit

    def load(self, key: str) -> Entry | None:
        """The entry of that key, None where there is none or it is damaged."""
        path = self._path(key)
        try:
            with path.open("rb") as file:
                status = os.fstat(file.fileno())
                if not _is_trusted(status):
                    return None
                entry = _parse(file.read())
        except OSError:
            return None
        if entry is not None and time.time() - status.st_mtime > _FRESH:
            with suppress(OSError):  # a folder that may only be read
                os.utime(path)
        return entry

    def store(self, key: str, facts: Any, content: bytes) -> None:
        """Keep an entry; where that cannot be done, warn once and go on."""
        body = json.dumps(facts).encode() + b"\n" + content
        digest = sha256(body).hexdigest().encode()
        try:
            atomic.write_bytes(self._path(key), b"\n".join([_MAGIC, digest, body]), durable=False)
            self._keep_within_limit(len(body))
        except (RunError, OSError) as error:
            _warn_once(f"compiled code is not kept for the next start: {error}")

    def usage(self) -> Usage:
        """Number and size of the entries."""
        sizes = [status.st_size for _, status in self._entries()]
        return Usage(len(sizes), sum(sizes))

    def clear(self) -> Usage:
        """Remove every entry; returns what there was. Programs that run keep what they have loaded."""
        sizes = []
        for path, status in self._entries():
            path.unlink(missing_ok=True)
            sizes.append(status.st_size)
        return Usage(len(sizes), sum(sizes))

    def _path(self, key: str) -> Path:
        return self.folder / f"{key}{_SUFFIX}"

    def _entries(self) -> list[tuple[Path, os.stat_result]]:
        """The entries, and what was never finished, with what the file system knows of them."""
        found = []
        for path in self.folder.glob(f"*{_SUFFIX}*"):
            with suppress(FileNotFoundError):  # another process has just removed it
                found.append((path, path.stat()))
        return found

    def _keep_within_limit(self, stored: int) -> None:
        """Look at the folder now and then: at first, and when an eighth of the limit was stored since."""
        since = _stored_since.get(self.folder, self._limit) + stored
        if since > self._limit // 8:
            self._shrink()
            since = 0
        _stored_since[self.folder] = since

    def _shrink(self) -> None:
        """Remove what was not used for the longest time, as far as needed, and what was left half-written."""
        entries = sorted(self._entries(), key=lambda entry: entry[1].st_mtime)
        total = sum(status.st_size for _, status in entries)
        for path, status in entries:
            stale = time.time() - status.st_mtime > _STALE
            if stale if path.name.endswith(atomic.STALE) else total > self._limit:
                path.unlink(missing_ok=True)
                total -= status.st_size


def _is_trusted(status: os.stat_result) -> bool:
    """True for a file of this user or of the administrator: what lies here is run as code."""
    return os.name != "posix" or status.st_uid in (0, os.geteuid())


def _parse(content: bytes) -> Entry | None:
    parts = content.split(b"\n", 2)
    if len(parts) != 3 or parts[0] != _MAGIC or sha256(parts[2]).hexdigest().encode() != parts[1]:
        return None
    facts, _, code = parts[2].partition(b"\n")
    return Entry(json.loads(facts), code)


@cache
def fingerprint() -> str:
    """What decides how a schedule becomes an object file: our own source, and LLVM's version.

    The records' too, since kernels expand their meanings. Where that source was changed after this process
    had begun (an upgrade, an editor), what it has loaded is not what lies there: it then shares with nobody.
    """
    package = Path(__file__).parents[2]
    folders = (package / "backends" / "native", package / "schedule", package / "primitives")
    paths = [path for folder in folders for path in sorted(folder.glob("*.py"))]
    own = os.urandom(16) if any(path.stat().st_mtime >= _BEGUN for path in paths) else b""
    sources = [path.read_bytes() for path in paths]
    return sha256(b"".join([llvm_version().encode(), own, *sources])).hexdigest()


def compiled(text: str, target: Target) -> bytes:
    """The object file of a module, from an earlier time or made now."""
    cache, key = Cache(), sha256(f"{llvm_version()} {target}\n{text}".encode()).hexdigest()
    kept = cache.load(key)
    if kept is not None:
        return kept.content
    content = compile_object(text, target)
    cache.store(key, None, content)
    return content


_warned: set[str] = set()


def _warn_once(message: str) -> None:
    if not _warned:
        _warned.add(message)
        warnings.warn(message, stacklevel=2)
