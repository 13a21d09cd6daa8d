"""From the options of a command to the recipe they describe."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from chainrule.errors import RecipeError
from chainrule.recipe import Recipe

Sections = Mapping[str, Mapping[str, Any]]


def recipe_from(file: Path | None, assignments: Sequence[str], options: Sections) -> Recipe:
    """The recipe in `file` (or the default one), changed by ``section.name=value`` texts, then by options.

    Options that are None were not given. Another optimizer begins with its own defaults.
    """
    document = (Recipe() if file is None else Recipe.read(file)).to_document()
    for assignment in assignments:
        _assign(document, assignment)
    for section, values in options.items():
        given = {name: value for name, value in values.items() if value is not None}
        if section == "optimizer" and given.get("name", document[section].get("name")) != document[
            section
        ].get("name"):
            document[section] = {}
        document[section] = {**document[section], **given}
    if document["data"]["source"] != ("" if file is None else Recipe.read(file).data.source):
        document["data"]["hash"] = ""  # it belonged to the other table
    return Recipe.from_document(document, "the recipe" if file is None else str(file))


def widths(text: str | None) -> list[int] | None:
    """The layer widths that "128,64" names; none for ""."""
    if text is None:
        return None
    try:
        return [int(part) for part in text.split(",") if part.strip()]
    except ValueError:
        raise RecipeError(
            f"--hidden {text}: give whole numbers with commas between them, as in --hidden 128,64"
        ) from None


def kinds(texts: Sequence[str] | None) -> dict[str, str] | None:
    """Column → kind from ``column=kind`` texts; a column's name may hold equals signs."""
    if not texts:
        return None
    for text in texts:
        if "=" not in text:
            raise RecipeError(f"--kind {text}: write COLUMN=KIND, as in --kind zip=category")
    return {column: kind for column, _, kind in (text.rpartition("=") for text in texts)}


def _assign(document: dict[str, Any], assignment: str) -> None:
    """Put the value of ``section.name=value`` into its place in a recipe's document."""
    name, equals, text = assignment.partition("=")
    path = name.strip().split(".")
    if not equals or len(path) < 2 or not all(path):
        raise RecipeError(
            f"--set {assignment}: write SECTION.NAME=VALUE, as in --set network.activation=tanh"
        )
    place: Any = document
    for part in path[:-1]:
        place = place.setdefault(part, {})
        if not isinstance(place, dict):
            raise RecipeError(
                f"--set {assignment}: {part} is a setting with a value, not a section with settings"
            )
    place[path[-1]] = _value(text.strip())


def _value(text: str) -> Any:
    """What TOML reads there: a number, a list, true, a quoted text; any other text stands for itself."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text
