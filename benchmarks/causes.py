"""Does the ledger's cause name what was planted? Faults in random networks, judged by their outcome.

    python -m benchmarks.causes                      the promise, on perceptrons; other networks beside it
    python -m benchmarks.causes --seeds development  the seeds on which the rule was made
    python -m benchmarks.causes --seeds development --untold  the optimizer is not told: SGD is assumed

A network is drawn with its data, and trained for 100 steps on all its rows at the best of some learning
rates. It is healthy if it gets 20% below the loss of the best constant, and no choice in it costs what a
harmful fault costs (see `drawn`). Then faults are planted in it, one at a time. One is harmful if the same
100 steps gain less than 80% of what its twin without the fault gains. The ledger sees the first step only,
and has named the fault if factor and layer are right. Healthy networks are looked at again after 200 steps.
Of those, a second figure tells the ones that were no slower after a quarter of the steps either.

The rule was made on the development seeds. The figures that are published come from the final seeds, on which
nothing was tried before. They are used once for each version of the rule: who changes it takes new ones.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from itertools import repeat
from typing import Any

import numpy as np

import chainrule as cr
from benchmarks import causes_nets as nets
from benchmarks.causes_nets import Array, Data, Design, Plant, Random
from benchmarks.measure import ROOT
from chainrule import nn
from tools.verdict import Verdict

PUBLISHED = ROOT / "benchmarks" / "results" / "causes.json"
SEEDS = {"development": 1_000, "final": 2_400_000}  # 900,000 was that of the first version of the rule
DESIGNS = {"mlp": 170, "cnn": 6, "residual": 6, "transformer": 6}  # half of the time is for compiling them
PROMISED = "mlp"
NETWORKS = 3  # healthy networks of one design, which differ in initialisation, weights and data
PLANTED = {"mlp": 0.7}  # share of the faults that are planted: enough of them, in the time for it
TRIES = 8  # to draw them, before another design is drawn
STEPS, LONGER = 100, 200
LEARNT, HARM = 0.2, 0.2
HEALTHY, TRAINED = "healthy", "healthy, trained"
FIRST, FIRST_TWO, NONE_FRESH, NONE_TRAINED = 0.95, 0.98, 0.98, 0.95
LEAST_DESIGNS, LEAST_HARMFUL, LEAST_HEALTHY = 100, 1_000, 500


Named = tuple[str, str, dict[str, float]]
"""The factor and the layer of a cause, and its evidence."""


class Unhealthy(Exception):
    """A drawn network does not learn, or something in it costs what a harmful fault does."""


@dataclass(frozen=True)
class Found:
    """One diagnosis.

    kind    of the fault; `HEALTHY` and `TRAINED` for none
    size    of the fault, for example the factor by which weights were multiplied
    harm    share of the twin's gain that the fault costs
    early   share of what is gained in a quarter of the steps that choices in the healthy network cost
    place   at which the fault is named, counted from 1; 0 where it is not
    causes  what was named, and the evidence
    """

    seed: int
    design: Design
    kind: str
    size: float
    harm: float
    early: float
    place: int
    causes: list[Named]


# -- networks that differ in one thing -----------------------------------------------------------------------
class Twins:
    """One design, compiled once, for runs that differ in weights, data and learning rate."""

    def __init__(self, design: Design, activation: str) -> None:
        cr.random.seed(0)
        self.design = design
        self.model = nets.built(design, activation)
        adam = design.optimizer == "adam"
        self.optimizer = cr.optim.Adam(lr=1.0) if adam else cr.optim.SGD(lr=1.0, momentum=0.9)
        self.trainer = cr.Trainer(self.model, self._loss, self.optimizer, batch_size=design.rows)
        self._fresh = self.trainer.state()

    @property
    def weights(self) -> dict[str, Array]:
        """A copy of the weights as they are."""
        return {name: np.array(value) for name, value in self.model.state_dict().items()}

    def restart(self, weights: dict[str, Array]) -> None:
        """Weights as given, and an optimizer that knows of nothing yet."""
        self.trainer.load_state(self._fresh)
        self.model.load_state_dict(weights)

    def train(self, data: Data, rate: float, steps: int) -> None:
        """Some steps on all rows; the scale of the loss comes as a weight of the rows, to compile once."""
        self.trainer.set_scale(rate)  # times a learning rate of 1
        scales = np.full(len(data.inputs), data.loss_scale, np.float32)
        batches = np.tile(np.arange(len(data.inputs)), (steps, 1))
        self.trainer.run((data.inputs, data.targets, scales), steps, batches=batches)

    def gain(self, data: Data, rows: Array) -> float:
        """How far the loss on some rows is below that of the best constant, in the units of the twin."""
        with cr.no_grad():
            losses = self._each(self.model(data.inputs[rows]), data.targets[rows]).numpy()
        found = float(np.mean(losses.astype(np.float64)))
        gain = (best_constant(data, rows) - found) / data.target_scale**2
        return gain if math.isfinite(gain) else -math.inf

    def causes(self, data: Data, step: int, told: bool) -> list[Named]:
        """What the ledger of a step on all rows names, where the optimizer is told and where it is not."""
        loss = nn.CrossEntropyLoss() if self.design.classes else nn.MSELoss()
        value = loss(self.model(cr.asarray(data.inputs)), cr.asarray(data.targets))
        value = value if data.loss_scale == 1 else value * data.loss_scale
        found = cr.ledger(value, step=step, optimizer=self.optimizer if told else None)
        return [(each.factor, each.layer, dict(each.evidence)) for each in found.causes]

    def _loss(self, outputs: Any, targets: Any, weights: Any) -> Any:
        return cr.mean(self._each(outputs, targets) * weights)

    def _each(self, outputs: Any, targets: Any) -> Any:
        if self.design.classes:
            return nn.functional.cross_entropy(outputs, targets, reduction="none", ignore_index=None)
        return cr.square(outputs - targets)[:, 0]


def best_constant(data: Data, rows: Array) -> float:
    """The loss of the best constant prediction for some rows."""
    targets = data.targets[rows]
    if targets.dtype.kind == "f":
        return float(np.var(targets))
    shares = np.unique(targets, return_counts=True)[1] / len(targets)
    return float(-(shares * np.log(shares)).sum())


# -- healthy ones --------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Healthy:
    """A network that learns, with its data and the learning rate that suits it.

    early  share of what a rival gains in a quarter of the steps that it lacks then
    """

    design: Design
    data: Data
    weights: dict[str, Array]
    rate: float
    early: float


def drawn(twins: Twins, better: Twins | None, random: Random, rates: tuple[float, ...]) -> Healthy:
    """A network that learns, at the best of some rates.

    After all steps it is as good, but for HARM, as with the recommended initialisation, and as one with tanh
    for sigmoid: what is a fault when planted is one too when drawn.
    """
    design = replace(twins.design, initialisation=nets.initialisation(random))
    data = nets.data_of(design, random)
    nets.initialise(twins.model, design, random)
    weights = twins.weights
    gains = {rate: gained(twins, weights, data, rate) for rate in rates}
    rate = max(gains, key=lambda each: gains[each][-1])
    if gains[rate][-1] < LEARNT * best_constant(data, data.fair):
        raise Unhealthy
    rivals = [(better, "tanh")] if better else []
    rivals += [(twins, design.activation)] if design.initialisation != "recommended" else []
    slower = 0.0
    for rival, activation in rivals:
        nets.initialise(
            rival.model, replace(design, initialisation="recommended", activation=activation), random
        )
        fresh = rival.weights
        tried = [gained(rival, fresh, data, each) for each in nets.RATES[design.optimizer]]
        theirs = max(tried, key=lambda each: each[-1])
        early, harm = (lost(*pair) for pair in zip(gains[rate], theirs, strict=True))
        if harm > HARM:
            raise Unhealthy
        slower = max(slower, early)
    return Healthy(design, data, weights, rate, slower)


def gained(twins: Twins, weights: dict[str, Array], data: Data, rate: float) -> tuple[float, float]:
    """The gains after a quarter of the steps and after all."""
    twins.restart(weights)
    twins.train(data, rate, STEPS // 4)
    early = twins.gain(data, data.fair)
    twins.train(data, rate, STEPS - STEPS // 4)
    return early, twins.gain(data, data.fair)


def lost(gain: float, usual: float) -> float:
    """The share of a usual gain that is lost; none where nothing is gained anyway."""
    return 1 - gain / usual if usual > 0 else 0.0


# -- diagnoses -----------------------------------------------------------------------------------------------
def examined(seed: int, family: str, told: bool = True) -> list[Found]:
    """The first healthy design that a seed gives: several networks of it, and faults in the first of them."""
    np.seterr(all="ignore")  # harmful faults overflow
    random = np.random.default_rng(seed)
    while True:
        design = nets.designed(random, family)
        twins = Twins(design, design.activation)
        better = Twins(design, "tanh") if design.activation == "sigmoid" else None
        healthy: list[Healthy] = []
        for _ in range(TRIES):
            rates = (healthy[0].rate,) if healthy else nets.RATES[design.optimizer]
            with contextlib.suppress(Unhealthy):
                healthy.append(drawn(twins, better, random, rates))
            if not healthy:
                break
            if len(healthy) == NETWORKS:
                found = [each for one in healthy for each in of_healthy(seed, twins, one, told)]
                return found + list(of_plants(seed, twins, healthy[0], random, told))


def of_healthy(seed: int, twins: Twins, one: Healthy, told: bool) -> Iterator[Found]:
    """What is named in a healthy network before training and, where it still is healthy, after."""
    data, rows = one.data, one.data.fair
    twins.restart(one.weights)
    yield Found(seed, one.design, HEALTHY, 1.0, 0.0, one.early, 0, twins.causes(data, 0, told))
    twins.train(data, one.rate, STEPS)
    usual = twins.gain(data, rows)
    twins.train(data, one.rate, LONGER - STEPS)
    harm = lost(twins.gain(data, rows), usual)
    if harm <= HARM:
        named = twins.causes(data, LONGER, told)
        yield Found(seed, one.design, TRAINED, 1.0, harm, one.early, 0, named)


def of_plants(seed: int, twins: Twins, one: Healthy, random: Random, told: bool) -> Iterator[Found]:
    """What is named when faults are planted in a healthy network."""
    design, share = one.design, PLANTED.get(one.design.family, 1.0)
    twins.restart(one.weights)
    twins.train(one.data, one.rate, STEPS)
    learnt = twins.weights
    for plant in nets.plants(design, twins.model, random):
        if random.random() >= share:
            continue
        planted = plant.data(one.data) if plant.data else one.data
        twins.restart(learnt)
        usual = twins.gain(one.data, planted.fair)
        other = Twins(twins.design, plant.activation) if plant.activation else twins
        other.restart(one.weights)
        if plant.change:
            plant.change(other.model)
        causes = other.causes(planted, 0, told)
        other.train(planted, one.rate, STEPS)
        harm = lost(other.gain(planted, planted.fair), usual)
        place = place_of(plant, causes)
        yield Found(seed, design, plant.kind, plant.size, harm, one.early, place, causes[:4])


def place_of(plant: Plant, causes: list[Named]) -> int:
    """At which place a fault is named, counted from 1; 0 where it is not."""
    named = (
        place
        for place, (factor, layer, _) in enumerate(causes, 1)
        if factor == plant.factor and plant.layer in (None, layer)
    )
    return next(named, 0)


# -- figures -------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Figures:
    """How often faults of one kind are named, or how often nothing is in healthy networks."""

    tried: int
    harmful: int
    first: float
    first_two: float

    def __str__(self) -> str:
        return f"{self.tried:6} {self.harmful:8} {self.first:8.1%} {self.first_two:8.1%}"


def figures(found: list[Found]) -> Figures:
    """Of faults."""
    places = [each.place for each in found if each.harm > HARM]
    first, second = places.count(1), places.count(2)
    count = max(1, len(places))
    return Figures(len(found), len(places), first / count, (first + second) / count)


def silent(found: list[Found], kind: str, slowest: float = math.inf) -> tuple[int, float]:
    """How many healthy networks were seen, and in what share of them nothing was named.

    slowest  share of what a rival gains in a quarter of the steps that one may lack then
    """
    named = [bool(each.causes) for each in found if each.kind == kind and each.early <= slowest]
    return len(named), named.count(False) / max(1, len(named))


def planted(found: list[Found]) -> list[Found]:
    """Diagnoses of networks with a fault."""
    return [each for each in found if each.kind not in (HEALTHY, TRAINED)]


def grouped(found: list[Found]) -> dict[str, Figures]:
    """Figures by kind of fault, by activation, and of all."""
    faults = planted(found)
    kinds = dict.fromkeys(each.kind for each in faults)
    groups = {kind: figures([each for each in faults if each.kind == kind]) for kind in kinds}
    for activation in sorted({each.design.activation for each in faults}):
        groups[f"in {activation}"] = figures(
            [each for each in faults if each.design.activation == activation]
        )
    return groups | {"all": figures(faults)}


def table(family: str, found: list[Found]) -> str:
    """The figures of one family of networks."""
    designs = len({each.seed for each in found})
    lines = [
        f"{family}, {designs} designs",
        f"{'fault':18} {'tried':>6} {'harmful':>8} {'first':>8} {'in two':>8}",
    ]
    lines += [f"{kind:18} {row}" for kind, row in grouped(found).items()]
    for kind in (HEALTHY, TRAINED):
        (count, share), (fewer, of_these) = silent(found, kind), silent(found, kind, HARM)
        lines.append(
            f"{kind:18} {count:6} {'':8} nothing named in {share:.1%}; "
            f"in {of_these:.1%} of the {fewer} that are not slow at first either"
        )
    return "\n".join(lines)


def verdict(found: list[Found]) -> Verdict:
    """Whether the promise is kept on perceptrons, by enough of them."""
    designs, faults = len({each.seed for each in found}), figures(planted(found))
    (fresh, none_fresh), (trained, none_trained) = silent(found, HEALTHY), silent(found, TRAINED)
    figure = (
        f"named first {faults.first:.1%}, in the first two {faults.first_two:.1%} of {faults.harmful:,} "
        f"harmful faults in {designs} networks; none named in {none_fresh:.1%} of {fresh} healthy ones, in "
        f"{none_trained:.1%} of {trained} after training"
    )
    limit = f"{FIRST:.0%}, {FIRST_TWO:.0%}, {NONE_FRESH:.0%}, {NONE_TRAINED:.0%}"
    kept = (
        faults.first >= FIRST
        and faults.first_two >= FIRST_TWO
        and none_fresh >= NONE_FRESH
        and none_trained >= NONE_TRAINED
        and designs >= LEAST_DESIGNS
        and faults.harmful >= LEAST_HARMFUL
        and min(fresh, trained) >= LEAST_HEALTHY
    )
    return Verdict("causes", figure, limit, kept)


def published(seeds: str, found: dict[str, list[Found]]) -> dict[str, Any]:
    """What is kept: the figures, every harmful fault that was not named first, every false alarm."""
    families = {}
    for family, each in found.items():
        missed = [row for row in planted(each) if row.harm > HARM and row.place != 1]
        alarms = [row for row in each if row.kind in (HEALTHY, TRAINED) and row.causes]
        families[family] = {
            "designs": len({row.seed for row in each}),
            "faults": {kind: asdict(row) for kind, row in grouped(each).items()},
            "nothing named": {kind: silent(each, kind) for kind in (HEALTHY, TRAINED)},
            "nothing named, not slow at first": {
                kind: silent(each, kind, HARM) for kind in (HEALTHY, TRAINED)
            },
            "missed": [asdict(row) for row in missed],
            "alarms": [asdict(row) for row in alarms],
        }
    return {
        "seeds": seeds, "first seed": SEEDS[seeds], "steps": STEPS, "harm": HARM, "learnt": LEARNT,
        "families": families,
    }  # fmt: skip


def strict(found: Any) -> Any:
    """As JSON has it: it knows no number that is not finite, so that is told in words."""
    if isinstance(found, dict):
        return {name: strict(each) for name, each in found.items()}
    if isinstance(found, list | tuple):
        return [strict(each) for each in found]
    return str(found) if isinstance(found, float) and not math.isfinite(found) else found


def main() -> int:
    """Run what the command line asks for."""
    options = _parser().parse_args()
    found: dict[str, list[Found]] = {}
    with ProcessPoolExecutor(options.processes) as pool:
        for family in options.families:
            seeds = range(SEEDS[options.seeds], SEEDS[options.seeds] + (options.designs or DESIGNS[family]))
            rows = pool.map(examined, seeds, repeat(family), repeat(not options.untold))
            found[family] = [each for some in rows for each in some]
            print(table(family, found[family]), end="\n\n", flush=True)
    if options.seeds == "final" and not options.untold:
        kept = json.dumps(strict(published(options.seeds, found)), indent=1, allow_nan=False)
        PUBLISHED.write_text(kept + "\n", encoding="utf-8")
    return verdict(found.get(PROMISED, [])).announce()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.causes",
        description="Plant faults in networks that learn, and have them named.",
    )
    parser.add_argument(
        "--seeds", choices=SEEDS, default="final", help="final: those of the published figures"
    )
    parser.add_argument(
        "--untold", action="store_true", help="do not tell the optimizer; nothing is published"
    )
    parser.add_argument("--families", nargs="+", choices=DESIGNS, default=list(DESIGNS))
    parser.add_argument("--designs", type=int, help="designs of every family, if not as many as promised")
    parser.add_argument("--processes", type=int, default=len(os.sched_getaffinity(0)))
    return parser


if __name__ == "__main__":
    sys.exit(main())
