"""How a run came about: the training, the network, what was done to the columns, the recipe."""

from __future__ import annotations

import shlex

from chainrule.show import charts, columns
from chainrule.show.facts import Facts
from chainrule.show.figures import clipped, count, counted, value
from chainrule.show.html import Html, details, element, figure, heads, joined, number, table
from chainrule.show.network import total

_MOST_EPOCHS = 60  # rows of the table under the curves
_MOST_COLUMNS = 400  # of the table, so that a report stays small however wide the data


def training(facts: Facts) -> list[Html]:
    """The loss by epoch, as curves and as numbers."""
    if not facts.history:
        return []
    best = facts.result.get("best_epoch") or None
    ended = {
        "all epochs": "after all epochs",
        "early stopping": "early, as the validation loss fell no more",
        "stopped by a callback": "as a callback asked",
    }
    said = f"{counted(len(facts.history), 'epoch')}"
    if facts.finished:
        said += f", ended {ended.get(facts.result.get('reason', ''), facts.result.get('reason', ''))}"
        said += (
            f"; the weights of epoch {best} were kept" if best and facts.recipe.training.restore_best else ""
        )
    shown = [*(name for name in ("loss", "validation_loss", "gradient_norm") if name in facts.history[0])]
    body = [
        element(
            "tr", element("th", row["epoch"], scope="row"), *(number(value(row.get(name))) for name in shown)
        )
        for row in charts.thinned(facts.history, _MOST_EPOCHS)
    ]
    head = heads("epoch", *(f">{name.replace('_', ' ')}" for name in shown))
    drawable = any(charts.positive(row["loss"]) for row in facts.history)
    curves = [figure(charts.training_curves(facts.history, best), "Curves")] if drawable else []
    return [
        element("p", f"{said}."),
        *curves,
        details("The curves as numbers", table("By epoch", head, body)),
    ]


def network(facts: Facts) -> list[Html]:
    """The layers and where the parameters are."""
    if not facts.layers:
        return []
    told = {
        "kind": [layer.kind for layer in facts.layers],
        "output": [layer.output_text() for layer in facts.layers],
    }
    known = {name: texts for name, texts in told.items() if any(texts)}
    body = [
        element(
            "tr",
            element("th", element("code", layer.path), scope="row", class_="what"),
            *(element("td", texts[k]) for texts in known.values()),
            number(count(layer.parameters) if layer.parameters else ""),
            element("td", layer.weights_text(), class_="quiet"),
        )
        for k, layer in enumerate(facts.layers)
    ]
    sum_, span = number(count(total(facts.layers))), 1 + len(known)
    body.append(
        element("tr", element("th", "total", scope="row", colspan=span), sum_, element("td"), class_="total")
    )
    head = heads("layer", *known, ">parameters", "weights")
    return [table("From the inputs to the output", head, body)]


def columns_of(facts: Facts) -> list[Html]:
    """What was done to the columns of the table, in groups and one by one."""
    if facts.preprocessor is None:
        return []
    grouped = [
        element(
            "tr",
            number(count(group.columns)),
            element("th", group.what, scope="row"),
            element("td", group.how),
        )
        for group in columns.groups(facts.preprocessor, facts.recipe.data.drop)
    ]
    made = counted(columns.inputs(facts.preprocessor), "input")
    note = columns.target_note(facts.transform)
    said = f"The columns become {made} of the network; all of it was fitted to the training rows alone."
    said += f" The target is {note}." if note else ""
    every = columns.rows(facts.preprocessor)
    body = [
        element(
            "tr",
            *(
                element("td", clipped(each), class_="what" if k in (0, 4) else None)
                for k, each in enumerate(row)
            ),
        )
        for row in every[:_MOST_COLUMNS]
    ]
    more = [element("p", f"{count(len(every) - _MOST_COLUMNS)} more are in preprocessing.json.")] * (
        len(every) > _MOST_COLUMNS
    )
    full = table("Columns and treatments", heads("column", "kind", "missing", "treatment", "because"), body)
    return [
        element("p", said),
        table("What was done to them", heads(">columns", "kind", "treatment"), grouped),
        details("Every column", full, *more),
    ]


def recipe(facts: Facts) -> list[Html]:
    """How to get the same again, and to use it."""
    shown: list[Html] = []
    if facts.preprocessor is not None and facts.path is not None:
        from_python = f'cr.fit("{facts.path / "recipe.toml"}", data)  # in Python: the data came from there'
        from_shell = f"chainrule train --recipe {shlex.quote(str(facts.path / 'recipe.toml'))}"
        use = facts.command("predict", "NEW.csv", "-o", "predictions.csv")
        again = f"{from_shell if facts.recipe.data.source else from_python}\n{use}"
        shown += [
            element("p", "To get the same result again, and to use it:"),
            element("pre", element("code", again), tabindex=0),
        ]
    if facts.recipe.data.hash:
        said = joined(
            ["The data are recognised by their hash, ", element("code", facts.recipe.data.hash), "."]
        )
        shown.append(element("p", said, class_="note"))
    shown.append(
        details(
            "recipe.toml",
            element("pre", element("code", facts.recipe.to_toml().strip()), tabindex=0),
            open_=True,
        )
    )
    return shown
