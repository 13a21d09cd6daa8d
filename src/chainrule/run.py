"""A run on disk: recipe, weights, history, preprocessing, checkpoint; and the index of runs.

runs/
  index.sqlite                  lists the runs; can be rebuilt from the folders at any time
  20261122-101500-price/
    recipe.toml                 everything that decided the result
    preprocessing.json          the fitted preprocessing, in readable form
    history.jsonl               one line per epoch
    checkpoint.safetensors      the state of training, while it is not finished
    states/0.safetensors        the state before the first step and before a few others: to replay any
    weights.safetensors         the resulting parameters and buffers
    telemetry.safetensors       what the steps told of layers and parameters
    result.json                 what came of it

Every file is replaced atomically; the history is appended and cut back to the last checkpoint on resume.
"""

from __future__ import annotations

import json
import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np

from chainrule import atomic
from chainrule.errors import RunError
from chainrule.recipe import Recipe

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Checkpoint:
    """The whole state of training at one step: arrays, and progress as a plain document."""

    arrays: dict[str, Array]
    progress: dict[str, Any]


class RunFolder:
    """The files of one run."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    @property
    def name(self) -> str:
        return self.path.name

    # -- recipe, preprocessing, result ---------------------------------------------------------------------
    def write_recipe(self, recipe: Recipe) -> None:
        atomic.write_text(self.path / "recipe.toml", recipe.to_toml())

    def recipe(self) -> Recipe:
        self._check_exists()
        return Recipe.read(self.path / "recipe.toml")

    def write_document(self, name: str, document: Any) -> None:
        """Write a plain document as readable JSON."""
        atomic.write_text(self.path / name, json.dumps(document, indent=1, ensure_ascii=False) + "\n")

    def document(self, name: str) -> Any:
        path = self.path / name
        self._check_exists()
        try:
            return json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise RunError(
                f"{path} is missing, so run {self.name} is not complete; finish it with `chainrule "
                f"train --resume {self.path}`"
            ) from None
        except (OSError, ValueError) as error:
            raise RunError(
                f"{path} cannot be read: {error}. It was changed or cut off after it was written"
            ) from None

    def has(self, name: str) -> bool:
        return (self.path / name).exists()

    def _check_exists(self) -> None:
        if not (self.path / "recipe.toml").exists():
            raise RunError(
                f"{self.path} is not a run: there is no recipe.toml in it. `chainrule runs` lists the runs"
            )

    # -- arrays --------------------------------------------------------------------------------------------
    def write_arrays(self, name: str, arrays: dict[str, Array], metadata: dict[str, Any]) -> None:
        """Write arrays and a plain document as one safetensors file."""
        from safetensors.numpy import save

        contiguous = {key: np.ascontiguousarray(value) for key, value in arrays.items()}
        shaped = {key: value.reshape(arrays[key].shape) for key, value in contiguous.items()}
        atomic.write_bytes(self.path / name, save(shaped, {"chainrule": json.dumps(metadata)}))

    def arrays(self, name: str) -> tuple[dict[str, Array], dict[str, Any]]:
        """What `write_arrays` wrote; `RunError` when it is missing, cut off or not ours."""
        from safetensors import SafetensorError, safe_open

        path = self.path / name
        try:
            with safe_open(path, framework="numpy") as file:
                metadata = json.loads((file.metadata() or {})["chainrule"])
                return {key: file.get_tensor(key) for key in file.keys()}, metadata  # noqa: SIM118 - not a dict
        except FileNotFoundError:
            raise RunError(
                f"{path} is missing: run {self.name} has not got that far, or the file was removed"
            ) from None
        except (SafetensorError, OSError, KeyError, ValueError) as error:
            raise RunError(
                f"{path} cannot be read ({error}): it was changed or cut off after it was written. "
                "Restore it from a copy, "
                "or train again from recipe.toml"
            ) from None

    def write_checkpoint(self, checkpoint: Checkpoint) -> None:
        self.write_arrays("checkpoint.safetensors", checkpoint.arrays, checkpoint.progress)

    def checkpoint(self) -> Checkpoint | None:
        """The last checkpoint, None before the first."""
        if not self.has("checkpoint.safetensors"):
            return None
        return Checkpoint(*self.arrays("checkpoint.safetensors"))

    # -- states to replay from -----------------------------------------------------------------------------
    def write_state(self, step: int, state: Checkpoint) -> None:
        """Keep the state before a step."""
        self.write_arrays(self._state_name(step), state.arrays, state.progress)

    def state(self, step: int) -> Checkpoint:
        """The state before a step that is among `states`."""
        return Checkpoint(*self.arrays(self._state_name(step)))

    def drop_state(self, step: int) -> None:
        """Keep the state before a step no longer."""
        (self.path / self._state_name(step)).unlink(missing_ok=True)

    def states(self) -> list[int]:
        """The steps before which the state is kept, in order; none in runs of older versions."""
        names = (path.stem for path in self.path.glob("states/*.safetensors"))
        return sorted(int(name) for name in names if name.isdecimal())

    @staticmethod
    def _state_name(step: int) -> str:
        return f"states/{step}.safetensors"

    # -- history -------------------------------------------------------------------------------------------
    def append_history(self, row: dict[str, Any]) -> None:
        """Add the line of one epoch."""
        path = self.path / "history.jsonl"
        with atomic.explained(path), path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")

    def history(self) -> list[dict[str, Any]]:
        """All whole lines; a last line that was cut off by a crash is left out."""
        path = self.path / "history.jsonl"
        if not path.exists():
            return []
        rows = []
        for line in path.read_text(encoding="utf-8").splitlines():
            try:
                rows.append(json.loads(line))
            except ValueError:
                break
        return rows

    def cut_history(self, rows: int) -> None:
        """Keep the first `rows` epochs: those that the checkpoint knows."""
        kept = self.history()[:rows]
        atomic.write_text(self.path / "history.jsonl", "".join(json.dumps(row) + "\n" for row in kept))

    # -- being alone -----------------------------------------------------------------------------------------
    @contextmanager
    def locked(self) -> Iterator[None]:
        """Only one process trains a run at a time; the lock dies with its process."""
        path = self.path / ".lock"
        with atomic.explained(path):
            self.path.mkdir(parents=True, exist_ok=True)
            connection = sqlite3.connect(path, timeout=0.0, isolation_level=None)
        with closing(connection):
            try:
                connection.execute("BEGIN EXCLUSIVE")
            except sqlite3.OperationalError as error:
                if "locked" not in str(error):
                    raise _refused(path, error) from None
                raise RunError(
                    f"run {self.path} is being trained by another process; wait for it, or stop it first"
                ) from None
            for left_behind in self.path.rglob(f".*{atomic.STALE}"):
                left_behind.unlink(missing_ok=True)
            yield


def create(root: str | Path, title: str, recipe: Recipe) -> RunFolder:
    """A new run folder under `root`, named after the time and `title`, with its recipe in it."""
    stamp = datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
    slug = re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")[:40] or "run"
    folder = RunFolder(_new_folder(Path(root), f"{stamp}-{slug}"))
    try:
        folder.write_recipe(recipe)
    except BaseException:
        folder.path.rmdir()
        raise
    return folder


def _new_folder(root: Path, name: str) -> Path:
    """A folder that did not exist before, under `name` or `name` with a number."""
    with atomic.explained(root / name):
        root.mkdir(parents=True, exist_ok=True)
        for number in count(1):
            path = root / (name if number == 1 else f"{name}-{number}")
            try:
                path.mkdir()
            except FileExistsError:
                continue
            return path
    raise AssertionError("count() does not end")


# -- the index ---------------------------------------------------------------------------------------------
_COLUMNS = ("name", "created", "state", "task", "target", "metric", "value")


def record(folder: RunFolder, state: str, result: dict[str, Any] | None = None) -> None:
    """Note the state of a run ("training", "interrupted", "finished") in the index beside it."""
    recipe = folder.recipe()
    headline = (result or {}).get("headline", {})
    row = (
        folder.name,
        datetime.now(UTC).isoformat(timespec="seconds"),
        state,
        (result or {}).get("task", recipe.data.task),
        recipe.data.target,
        headline.get("metric"),
        headline.get("value"),
    )
    with _index(folder.path.parent) as connection:
        connection.execute(
            f"INSERT INTO runs ({', '.join(_COLUMNS)}) VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT (name) "
            "DO UPDATE SET "
            "state = excluded.state, task = excluded.task, metric = excluded.metric, value = excluded.value",
            row,
        )


def listing(root: str | Path) -> list[dict[str, Any]]:
    """The runs under `root`, newest first. Folders decide: the index is completed from them."""
    base = Path(root)
    if not base.is_dir():
        return []
    folders = {path.parent.name: RunFolder(path.parent) for path in base.glob("*/recipe.toml")}
    with _index(base) as connection:
        known = {
            row[0]: dict(zip(_COLUMNS, row, strict=True)) for row in connection.execute("SELECT * FROM runs")
        }
    for name in folders.keys() - known.keys():
        finished = folders[name].has("result.json")
        record(
            folders[name],
            "finished" if finished else "interrupted",
            folders[name].document("result.json") if finished else None,
        )
    if folders.keys() - known.keys():
        with _index(base) as connection:
            known = {
                row[0]: dict(zip(_COLUMNS, row, strict=True))
                for row in connection.execute("SELECT * FROM runs")
            }
    return [known[name] for name in sorted(folders, key=lambda name: _age(folders[name]), reverse=True)]


def _age(folder: RunFolder) -> tuple[str, int, str]:
    """Sorts runs by the second in their name, then by when their recipe was written: it never is again."""
    return folder.name[:15], (folder.path / "recipe.toml").stat().st_mtime_ns, folder.name


@contextmanager
def _index(base: Path) -> Iterator[sqlite3.Connection]:
    """The index of the runs under `base`; one that cannot be read is put aside and made anew."""
    path = base / "index.sqlite"
    try:
        try:
            connection = _open_index(path)
        except sqlite3.OperationalError:
            raise  # the disk or a permission refuses; the file itself may be sound
        except sqlite3.DatabaseError:
            with atomic.explained(path):
                path.replace(path.with_suffix(".unreadable"))
            connection = _open_index(path)
        with closing(connection), connection:
            yield connection
    except sqlite3.OperationalError as error:
        raise _refused(path, error) from None


def _refused(path: Path, error: sqlite3.OperationalError) -> RunError:
    """What SQLite says when the system will not let it write, in our words."""
    said = str(error)
    if "full" in said or "I/O" in said:  # a full disk is now and then no more than "disk I/O error"
        cure = "the disk is full; free some space, or write elsewhere"
    elif "readonly" in said or "unable to open" in said:
        cure = f"no permission to write in {path.parent}; choose another folder or change its permissions"
    else:
        cure = said
    return RunError(f"cannot write {path}: {cure}. The runs themselves are unharmed")


def _open_index(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, timeout=10.0)
    try:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute(
            "CREATE TABLE IF NOT EXISTS runs (name TEXT PRIMARY KEY, created TEXT, state TEXT, task "
            "TEXT, target TEXT, "
            "metric TEXT, value REAL)"
        )
    except sqlite3.DatabaseError:
        connection.close()
        raise
    return connection
