"""The tools' own logic: reading imports, finding circles, judging bars, adding up coverage."""

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from tools import bars, coverage_floors, verdict
from tools.architecture import Import, SourceFile, find_cycle, floor_of

MODULES = frozenset({"package", "package.graph", "package.nn", "package.nn.layers"})
HERE = bars.Commit("a" * 40, dirty=False)
BAR = bars.Bar("speed", 2, "It is quick", "true", 0.1)


def source_file(folder: Path, name: str, text: str) -> SourceFile:
    path = folder / "package" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return SourceFile(path, folder / "package")


def test_imports_are_found_wherever_they_hide(tmp_path: Path) -> None:
    text = """\
import numpy as np
from package import graph
from package.graph import Node
from ..graph import Edge
from . import layers

class Layer:
    def load(self):
        import torch
        return [lambda: importlib.import_module("package.nn" if self.deep else name)]
"""
    found = source_file(tmp_path, "nn/blocks.py", text).imports(MODULES)
    assert found == [
        Import("numpy", 1, None),
        Import("package.graph", 2, None),
        Import("package.graph", 3, None),
        Import("package.graph", 4, None),
        Import("package.nn.layers", 5, None),
        Import("torch", 9, "load"),
        Import("package.nn", 10, "load"),
    ]


def test_a_package_is_named_by_its_folder_and_imports_relative_to_itself(tmp_path: Path) -> None:
    face = source_file(tmp_path, "nn/__init__.py", "from .layers import Linear\n")
    assert face.name == "package.nn"
    assert face.imports(MODULES) == [Import("package.nn.layers", 1, None)]


def test_functions_are_measured_with_their_class(tmp_path: Path) -> None:
    text = "class A:\n    def b(self):\n        def c():\n            pass\n        return c\n"
    functions = source_file(tmp_path, "a.py", text).functions()
    assert [(function.name, function.lines) for function in functions] == [("A.b", 4), ("A.b.c", 2)]


def test_floors_count_from_the_bottom() -> None:
    floors = [{"modules": ["errors"]}, {"modules": ["nn"]}]
    heights = [
        floor_of(name, floors) for name in ("package.errors", "package.nn.layers", "package.new", "package")
    ]
    assert heights == [0, 1, None, None]


def test_a_circle_is_told_as_the_way_round() -> None:
    assert find_cycle({"a": {"b", "c"}, "b": {"c"}, "c": set()}) is None
    assert find_cycle({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c", "b"]


def test_a_verdict_reads_back_as_it_was_printed() -> None:
    said = verdict.Verdict("speed", "0.2 s (best of 3)", "0.25 s", True)
    assert verdict.read(f"noise\nBAR other: 1 (limit 2) FAIL\n{said}\n") == said
    assert verdict.read("BAR speed: fast PASS\n") is None


@pytest.mark.parametrize(
    ("output", "exit_code", "passed"),
    [
        ("BAR speed: 1 s (limit 2 s) PASS", 0, True),
        ("BAR speed: 3 s (limit 2 s) FAIL", 1, False),
        ("BAR speed: 1 s (limit 2 s) PASS", 1, False),  # said it passed, then broke
        ("BAR speed: 1 s (limit 2 s) PASS", None, False),  # stopped at its time limit
        ("Traceback: nothing measured", 0, False),
    ],
)
def test_a_bar_passes_only_when_line_and_exit_status_agree(
    output: str, exit_code: int | None, passed: bool
) -> None:
    assert bars.judge(BAR, output, exit_code).passed is passed


def test_a_result_holds_only_for_the_clean_commit_it_was_measured_on(tmp_path: Path) -> None:
    bar = replace(BAR, command="echo BAR speed: 1 s '(limit 2 s)' PASS")
    result = bars.run_bar(bar, HERE, tmp_path)
    assert result == bars.load_result(bar, tmp_path)
    assert bars.holds(result, HERE)
    assert not bars.holds(result, replace(HERE, dirty=True))
    assert not bars.holds(result, bars.Commit("b" * 40, dirty=False))
    assert not bars.holds(replace(result, dirty=True), HERE)
    assert not bars.holds(replace(result, passed=False), HERE)
    assert not bars.holds(None, HERE)


def test_a_bar_past_its_limit_is_stopped_with_its_children(tmp_path: Path) -> None:
    result = bars.run_bar(replace(BAR, command="sh -c 'sleep 60; true'", minutes=0.005), HERE, tmp_path)
    assert result.exit_code is None
    assert not result.passed


def test_an_unreadable_result_counts_as_none(tmp_path: Path) -> None:
    (tmp_path / "speed.json").write_text(json.dumps({"id": "speed", "of_another_version": 1}))
    assert bars.load_result(BAR, tmp_path) is None


def test_the_bars_have_distinct_names_and_fit_into_an_hour() -> None:
    written = bars.load_bars()
    assert len({bar.id for bar in written}) == len(written)
    assert sum(bar.minutes for bar in written) <= 60
    assert all(asdict(bar)["command"] for bar in written)


def test_coverage_is_held_for_the_lower_floors_and_the_optimizers() -> None:
    def row(statements: int, covered: int) -> dict[str, dict[str, int]]:
        return {"summary": {"num_statements": statements, "covered_lines": covered}}

    report = {
        "files": {
            "src/chainrule/graph.py": row(80, 76),
            "src/chainrule/primitives/shape.py": row(20, 20),
            "src/chainrule/optim/adam.py": row(10, 9),
            "src/chainrule/nn/layers.py": row(10, 0),
        }
    }
    floors = [
        {"modules": ["errors"]},
        {"modules": ["primitives"]},
        {"modules": ["graph"]},
        {"modules": ["optim", "nn"]},
    ]
    held = coverage_floors.groups(report, floors)
    percents = {name: coverage_floors.total(name, files).percent for name, files in held.items()}
    assert percents == {"floors 0-2": 96.0, "optim": 90.0}
