"""Optimizers as documents: there and back without loss, in what JSON and TOML can hold."""

import json
import tomllib
from typing import Any

import pytest
import tomli_w

from chainrule import optim
from chainrule.errors import RecipeError

SCHEDULES = [
    optim.Constant(0.1),
    optim.Step(0.1, 5),
    optim.MultiStep(0.1, (1, 2)),
    optim.Exponential(0.1, 0.9),
    optim.Cosine(0.1, 5, 0.01),
    optim.LinearWarmup(0.1, 5),
    optim.WarmupCosine(0.1, 5, 10),
    optim.OneCycle(0.1, 10),
    optim.Plateau(0.1),
]
OPTIMIZERS = [
    optim.SGD(momentum=0.9, nesterov=True),
    optim.RMSprop(centered=True),
    optim.Adam(betas=(0.8, 0.9), amsgrad=True),
    optim.AdamW(lr=0.3),
    optim.Adagrad(),
    *(optim.AdamW(lr=each) for each in SCHEDULES),
    optim.chain(
        optim.clip_by_global_norm(1.0), optim.clip_by_value(0.5), optim.add_decayed_weights(0.1), optim.SGD()
    ),
]


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=str)
def test_there_and_back(optimizer: Any) -> None:
    document = optim.to_document(optimizer)
    assert optim.from_document(document) == optimizer
    assert optim.from_document(json.loads(json.dumps(document))) == optimizer
    assert optim.from_document(tomllib.loads(tomli_w.dumps(document))) == optimizer


def test_every_option_is_written_out() -> None:
    assert optim.to_document(optim.from_document({"name": "adam"})) == {
        "name": "adam", "lr": 0.001, "betas": [0.9, 0.999], "eps": 1e-08, "weight_decay": 0.0,
        "amsgrad": False,
    }  # fmt: skip


def test_the_schedule_takes_the_rate_of_the_optimizer() -> None:
    schedule = {"name": "cosine", "total_steps": 10}
    found = optim.from_document({"name": "adamw", "lr": 0.5, "schedule": schedule})
    assert found == optim.AdamW(lr=optim.Cosine(0.5, 10))
    one_cycle = {"name": "one_cycle", "max_lr": 3e-3, "total_steps": 6000}
    found = optim.from_document({"name": "adamw", "lr": 1e-3, "weight_decay": 0.02, "schedule": one_cycle})
    assert found == optim.AdamW(lr=optim.OneCycle(3e-3, 6000), weight_decay=0.02)


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ({}, "the optimizer has no name; write name = one of sgd"),
        ({"name": "adamm"}, "no optimizer 'adamm'; did you mean 'adam"),
        ({"name": "zzz"}, "no optimizer 'zzz'; there are sgd, rmsprop"),
        ({"name": "adam", "beta": 1}, "Adam has no option 'beta'; did you mean 'betas'"),
        ({"name": "adam", "amsgrad": "yes"}, "amsgrad = 'yes' must be true or false"),
        ({"name": "adam", "lr": -1}, "lr = -1 is out of range"),
        ({"name": "sgd", "schedule": {"name": "cosin"}}, "no schedule 'cosin'; did you mean 'cosine'"),
        ({"name": "sgd", "schedule": {"name": "cosine"}}, "Cosine needs lr and total_steps"),
        ({"name": "chain", "stage": []}, "'chain' has no option 'stage'; did you mean 'stages'"),
        ({"name": "chain", "stages": [{"name": "clip"}]}, "no gradient transform 'clip'"),
        ({"name": "chain", "stages": []}, "the optimizer has no name"),
    ],
)
def test_documents_that_cannot_be_read_say_why(document: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        optim.from_document(document)


def test_a_python_schedule_cannot_be_written() -> None:
    with pytest.raises(RecipeError, match="a Python function, which a recipe cannot hold"):
        optim.to_document(optim.SGD(lr=lambda count: 0.1))
