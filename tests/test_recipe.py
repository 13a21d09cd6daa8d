"""Recipes: one plain document, checked where it is read."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from chainrule.errors import RecipeError
from chainrule.recipe import Recipe


def test_the_shortest_recipe_names_a_source_and_a_target() -> None:
    recipe = Recipe.from_document({"data": {"source": "a.csv", "target": "y"}})
    assert recipe.data.target == "y"
    assert recipe.training.epochs > 0


def test_a_recipe_survives_toml_exactly(tmp_path: Path) -> None:
    recipe = Recipe.from_document(
        {
            "data": {"source": "SELECT * FROM 'ü.csv'", "target": "y", "drop": ["a", "b"]},
            "network": {"hidden": [7, 5], "activation": "tanh", "dropout": 0.1},
            "loss": {"class_weight": {"yes": 2.0, "no": 1}},
            "optimizer": {"name": "adamw", "lr": 3e-4, "schedule": {"name": "one_cycle", "max_lr": 1e-2}},
            "training": {"early_stopping": 4, "clip_norm": 1},
        }
    )
    path = tmp_path / "recipe.toml"
    path.write_text(recipe.to_toml(), encoding="utf-8")
    assert Recipe.read(path) == recipe
    assert Recipe.read(path).hash() == recipe.hash()
    assert tomllib.loads(recipe.to_toml())["format"] == 1


def test_a_recipe_with_a_change_is_another_recipe() -> None:
    recipe = Recipe.from_document({"data": {"source": "a.csv", "target": "y"}})
    changed = recipe.with_(network={"activation": "tanh"}, optimizer={"lr": 0.1})
    assert changed.network.activation == "tanh"
    assert changed.optimizer["lr"] == 0.1
    assert changed.optimizer["name"] == recipe.optimizer["name"]
    assert changed.hash() != recipe.hash()


@pytest.mark.parametrize(
    ("document", "words"),
    [
        ({"dta": {}}, ["section 'dta'", "did you mean 'data'"]),
        ({"network": {"hiden": [3]}}, ["[network]", "'hiden'", "did you mean 'hidden'"]),
        ({"network": {"hidden": 3}}, ["hidden = 3", "list"]),
        ({"network": {"hidden": ["a"]}}, ["hidden", "whole number"]),
        ({"training": {"epochs": "many"}}, ["epochs = 'many'", "whole number"]),
        ({"training": {"epochs": True}}, ["epochs = True"]),
        ({"training": {"clip_norm": "x"}}, ["clip_norm", "number"]),
        ({"data": 3}, ["[data]", "table of settings"]),
        ({"format": 99}, ["format 99", "reads format 1"]),
    ],
)
def test_what_does_not_belong_is_named(document: dict[str, object], words: list[str]) -> None:
    with pytest.raises(RecipeError) as caught:
        Recipe.from_document(document)
    for word in words:
        assert word in str(caught.value)


def test_unreadable_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="there is no recipe"):
        Recipe.read(tmp_path / "none.toml")
    bad = tmp_path / "bad.toml"
    bad.write_text("[data\n", encoding="utf-8")
    with pytest.raises(RecipeError, match=r"bad\.toml is not valid TOML"):
        Recipe.read(bad)
    binary = tmp_path / "binary.toml"
    binary.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(RecipeError, match="cannot read"):
        Recipe.read(binary)


def test_json_is_read_too(tmp_path: Path) -> None:
    path = tmp_path / "recipe.json"
    path.write_text('{"data": {"target": "y"}}', encoding="utf-8")
    assert Recipe.read(path).data.target == "y"
