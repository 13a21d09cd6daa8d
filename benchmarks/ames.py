"""House prices: chainrule's network beside scikit-learn's models, on five random splits of the Ames sales.

    python -m benchmarks.ames             run the five splits, print the table
    python -m benchmarks.ames --check     the same, and exit 1 unless the network's mean error is the lowest
    python -m benchmarks.ames --write     the same, and keep the figures in the package, for the demo to show
    python -m benchmarks.ames --search    choose every model's settings anew (about half an hour)

What makes it fair. Every model gets the same rows, the same prepared features (fitted to the training rows)
and the same target, the logarithm of the price brought to mean 0 and deviation 1; errors are in dollars.
Every model's settings are the best, by mean error, of `TRIALS` drawn at random and tried on splits 100-104;
the figures reported are of splits 0-4, which no choice has seen. What the search tried stands in
ames_search.json.
"""

import argparse
import json
import os
import sys
import time
import warnings
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # before NumPy is loaded: these matrices are small

import numpy as np
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import Ridge
from sklearn.neural_network import MLPRegressor

from chainrule.data import TargetTransform, prepare
from chainrule.data.examples import EXAMPLES
from chainrule.recipe import Recipe
from chainrule.train.table import fit_table
from tools.verdict import Verdict

SOURCE, TARGET = "example:ames", "Sale_Price"
REPORTED, SEARCHED = range(5), range(100, 105)
TRIALS = 12
RECIPE = EXAMPLES["ames"].with_name("ames.toml")
RESULTS = EXAMPLES["ames"].with_name("ames.results.json")
SEARCH = Path(__file__).with_name("ames_search.json")
T_95 = 2.776  # of Student's distribution with 4 degrees of freedom: five splits

Array = np.ndarray[Any, Any]
Settings = dict[str, Any]


@dataclass(frozen=True)
class Houses:
    """One split: what a model learns from, what it is asked for, and the prices it does not see."""

    seed: int
    features: Array
    target: Array
    transform: TargetTransform
    asked: Array
    prices: Array

    @classmethod
    def of(cls, seed: int) -> "Houses":
        """Split by this seed; every model learns from all the rows that are not tested on."""
        prepared = prepare(SOURCE, TARGET, seed=seed, test=0.2, validation=0.0)
        assert prepared.transform is not None
        return cls(
            seed,
            prepared.train.features.numeric,
            prepared.train.target,
            prepared.transform,
            prepared.test.features.numeric,
            prepared.test.original,
        )


@dataclass(frozen=True)
class Model:
    """How to draw settings at random, and how to predict the asked prices with some."""

    draw: Callable[[np.random.Generator], Settings]
    predict: Callable[[Houses, Settings], Array]


def of_scikit_learn(make: Callable[..., Any], draw: Callable[[np.random.Generator], Settings]) -> Model:
    """A regressor of scikit-learn's, learning the same transformed prices as the network."""

    def predict(houses: Houses, settings: Settings) -> Array:
        with warnings.catch_warnings():
            # How long MLPRegressor trains is one of its settings; it would rather decide that itself.
            warnings.simplefilter("ignore", ConvergenceWarning)
            fitted = make(**settings).fit(houses.features, houses.target)
        return houses.transform.invert(fitted.predict(houses.asked))

    return Model(draw, predict)


def log_uniform(rng: np.random.Generator, low: float, high: float) -> float:
    """A number between low and high, its logarithm uniform, to three digits."""
    return float(f"{np.exp(rng.uniform(np.log(low), np.log(high))):.3g}")


def pick(rng: np.random.Generator, options: list[Any]) -> Any:
    """One of the options, each as likely as the others."""
    return options[int(rng.integers(len(options)))]


def draw_network(rng: np.random.Generator) -> Settings:
    """Two hidden layers with dropout, AdamW and one cycle of the learning rate."""
    return {
        "hidden": pick(rng, [[128, 128], [256, 128], [256, 256]]),
        "activation": "gelu",
        "dropout": pick(rng, [0.3, 0.4, 0.5]),
        "max_lr": log_uniform(rng, 3e-3, 7e-3),
        "weight_decay": log_uniform(rng, 0.05, 1.0),
        "beta2": pick(rng, [0.95, 0.99]),
        "epochs": pick(rng, [30, 60]),
    }


def network_recipe(settings: Settings, seed: int) -> Recipe:
    """The recipe of the package with these settings in it, for the split of this seed."""
    recipe = Recipe.read(RECIPE)
    optimizer = {
        "betas": [0.9, settings["beta2"]],
        "weight_decay": settings["weight_decay"],
        "schedule": {"name": "one_cycle", "max_lr": settings["max_lr"]},
    }
    network = {name: settings[name] for name in ("hidden", "activation", "dropout")}
    return recipe.with_(
        split={"seed": seed, "validation": 0.0},
        network=network,
        optimizer=optimizer,
        training={"epochs": settings["epochs"], "seed": seed},
    )


def predict_network(houses: Houses, settings: Settings) -> Array:
    """Train chainrule's network on the same rows, through the recipe, and predict the same houses."""
    run = fit_table(network_recipe(settings, houses.seed))
    prepared = run.prepared
    assert prepared is not None
    assert np.array_equal(prepared.targets["test"], houses.prices)
    predicted: Array = run.predict(prepared.table.take(prepared.parts["test"])).values
    return predicted


def draw_boosting(rng: np.random.Generator) -> Settings:
    """Gradient boosting: how fast, how large the trees, how held back."""
    return {
        "learning_rate": log_uniform(rng, 0.02, 0.3),
        "max_iter": pick(rng, [100, 200, 400, 800]),
        "max_leaf_nodes": pick(rng, [7, 15, 31, 63]),
        "min_samples_leaf": pick(rng, [5, 10, 20, 40]),
        "l2_regularization": log_uniform(rng, 1e-3, 10.0),
        "max_features": pick(rng, [0.2, 0.5, 1.0]),
        "random_state": 0,
    }


def draw_perceptron(rng: np.random.Generator) -> Settings:
    """scikit-learn's network, over the same sizes and the rates that suit Adam without a schedule."""
    return {
        "hidden_layer_sizes": pick(rng, [[128], [256], [128, 128], [256, 128], [256, 256]]),
        "activation": pick(rng, ["relu", "tanh"]),
        "alpha": log_uniform(rng, 1e-4, 10.0),
        "learning_rate_init": log_uniform(rng, 2e-4, 1e-2),
        "batch_size": pick(rng, [32, 64, 128]),
        "max_iter": pick(rng, [30, 60, 120]),
        "random_state": 0,
    }


NETWORK = "chainrule network"
MODELS: dict[str, Model] = {
    NETWORK: Model(draw_network, predict_network),
    "HistGradientBoostingRegressor": of_scikit_learn(HistGradientBoostingRegressor, draw_boosting),
    "Ridge": of_scikit_learn(Ridge, lambda rng: {"alpha": log_uniform(rng, 0.1, 1000.0)}),
    "MLPRegressor": of_scikit_learn(MLPRegressor, draw_perceptron),
}


def drawn(name: str, trial: int) -> Settings:
    """The settings of one trial: the same for everybody who repeats the search."""
    return MODELS[name].draw(np.random.default_rng([trial, zlib.crc32(name.encode())]))


def errors(name: str, settings: Settings, splits: Mapping[int, Houses]) -> list[float]:
    """Root mean squared error, in dollars, on the test rows of every split."""
    found = []
    for houses in splits.values():
        predicted = MODELS[name].predict(houses, settings)
        found.append(float(np.sqrt(np.mean((predicted - houses.prices) ** 2))))
    return found


def search() -> None:
    """Try `TRIALS` random settings of every model on the search splits; a search that was stopped goes on."""
    tried: dict[str, list[dict[str, Any]]] = json.loads(SEARCH.read_text()) if SEARCH.exists() else {}
    splits = {seed: Houses.of(seed) for seed in SEARCHED}
    for name in MODELS:
        trials = tried.setdefault(name, [])
        for trial in range(len(trials), TRIALS):
            settings = drawn(name, trial)
            began = time.perf_counter()
            rmse = errors(name, settings, splits)
            trials.append({"settings": settings, "rmse": rmse, "mean": float(np.mean(rmse))})
            SEARCH.write_text(json.dumps(tried, indent=1) + "\n")
            seconds = time.perf_counter() - began
            print(
                f"{name} {trial + 1}/{TRIALS}: {np.mean(rmse):,.0f} in {seconds:.0f} s {settings}", flush=True
            )


def chosen(name: str) -> Settings:
    """The settings with the lowest mean error in the search."""
    trials = json.loads(SEARCH.read_text())[name]
    return dict(min(trials, key=lambda trial: trial["mean"])["settings"])


def report() -> dict[str, Any]:
    """Run every model, with its chosen settings, on the reported splits."""
    splits = {seed: Houses.of(seed) for seed in REPORTED}
    models = []
    for name in MODELS:
        settings = chosen(name)
        rmse = errors(name, settings, splits)
        models.append({"name": name, "settings": settings, "rmse": rmse, **interval(rmse)})
        print(f"  {name}: done", file=sys.stderr, flush=True)
    ours = models[0]["rmse"]
    for entry in models[1:]:
        entry["network_minus_it"] = interval(
            [one - other for one, other in zip(ours, entry["rmse"], strict=True)]
        )
    return {"splits": list(REPORTED), "test_share": 0.2, "unit": "$", "trials": TRIALS, "models": models}


def interval(values: list[float]) -> dict[str, Any]:
    """The mean and its 95% interval by Student's t over the splits."""
    middle = float(np.mean(values))
    margin = T_95 * float(np.std(values, ddof=1)) / np.sqrt(len(values))
    return {"mean": middle, "low": middle - margin, "high": middle + margin}


def show(results: dict[str, Any]) -> str:
    """The table."""
    lines = [
        f"{'test RMSE, $':30} {'mean':>7} {'95% interval':>17}   " + "".join(f"split {s} " for s in REPORTED)
    ]
    for entry in results["models"]:
        span = f"{entry['low']:,.0f} to {entry['high']:,.0f}"
        each = "".join(f"{value:7,.0f} " for value in entry["rmse"])
        lines.append(f"{entry['name']:30} {entry['mean']:7,.0f} {span:>17}   {each}")
    for entry in results["models"][1:]:
        gap = entry["network_minus_it"]
        lines.append(
            f"network less {entry['name']}: {gap['mean']:+,.0f}, 95% interval of the paired difference "
            f"{gap['low']:+,.0f} to {gap['high']:+,.0f}"
        )
    return "\n".join(lines)


def main() -> int:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for option in ("check", "write", "search"):
        parser.add_argument(f"--{option}", action="store_true")
    options = parser.parse_args()
    if options.search:
        search()
        return 0
    results = report()
    print(show(results))
    if options.write:
        RESULTS.write_text(json.dumps(results, indent=1) + "\n")
    if not options.check:
        return 0
    ours, *others = (entry["mean"] for entry in results["models"])
    figure = f"${ours:,.0f}, mean test RMSE of five splits"
    return Verdict("ames", figure, f"below ${min(others):,.0f}, the best peer", ours < min(others)).announce()


if __name__ == "__main__":
    sys.exit(main())
