"""The committed figures on the Ames houses hang together: search, recipe and results tell one story."""

import json

import numpy as np
import pytest

from benchmarks import ames
from chainrule.recipe import Recipe

RESULTS = json.loads(ames.RESULTS.read_text(encoding="utf-8"))
SEARCH = json.loads(ames.SEARCH.read_text(encoding="utf-8"))


def test_every_model_had_the_same_search() -> None:
    assert list(SEARCH) == list(ames.MODELS)
    for name, trials in SEARCH.items():
        assert len(trials) == ames.TRIALS == RESULTS["trials"], name
        for number, trial in enumerate(trials):
            assert trial["settings"] == ames.drawn(name, number), "settings are drawn, not picked"
            assert len(trial["rmse"]) == len(ames.SEARCHED)
            assert trial["mean"] == pytest.approx(np.mean(trial["rmse"]))
    assert not set(ames.SEARCHED) & set(ames.REPORTED)


def test_the_packages_recipe_is_the_one_the_search_chose() -> None:
    recipe = Recipe.read(ames.RECIPE).with_(split={"validation": 0.0})  # the demo shows a validation loss
    assert ames.network_recipe(ames.chosen(ames.NETWORK), recipe.split.seed) == recipe


def test_results_are_of_the_chosen_settings_and_the_network_leads() -> None:
    assert [entry["name"] for entry in RESULTS["models"]] == list(ames.MODELS)
    for entry in RESULTS["models"]:
        assert entry["settings"] == ames.chosen(entry["name"])
        assert len(entry["rmse"]) == len(RESULTS["splits"]) == 5
        assert entry["mean"] == pytest.approx(np.mean(entry["rmse"]))
        assert entry["low"] < entry["mean"] < entry["high"]
    means = [entry["mean"] for entry in RESULTS["models"]]
    assert means[0] == min(means)
