# Every task of the project is a target here; `make` alone lists them. Each target sets up what it needs:
# a clean clone, python3.11 and make are enough.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip install -qq --disable-pip-version-check
PYTEST := $(BIN)/python -m pytest -q -n auto --dist worksteal
TORCH  := torch==2.13.0

.DEFAULT_GOAL := help
.PHONY: help demo test check lint types coverage bars bench bench-docs bench-ames laws mutants fuzz docs clean

# The tests' arrays are small: more BLAS threads than one only get in each other's way.
test check coverage laws mutants fuzz docs: export OPENBLAS_NUM_THREADS := 1
test check coverage laws mutants fuzz docs: export OMP_NUM_THREADS := 1

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(VENV)/.core ## train on the Ames house prices, compare with baselines, write report.html
	@$(BIN)/chainrule demo

test: $(VENV)/.test ## run the tests that need neither PyTorch nor JAX
	@$(PYTEST) --ignore=tests/bridges

check: $(VENV)/.check lint types coverage ## everything CI runs: lint, types, all tests and examples, coverage

lint: $(VENV)/.check ## ruff: rules and formatting
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check

types: $(VENV)/.check ## mypy --strict over src
	@$(BIN)/mypy

coverage: $(VENV)/.check ## all tests, bridges and examples included; enforce the coverage floors
	@$(PYTEST) tests src/chainrule --doctest-modules --cov --cov-report=json:.coverage.json
	@$(BIN)/python -m tools.coverage_floors

laws: $(VENV)/.test ## hold every primitive to the laws
	@$(PYTEST) tests/test_laws.py

mutants: $(VENV)/.test ## break every record on purpose; the laws must notice
	@$(BIN)/python -m tools.mutants

fuzz: $(VENV)/.test ## 100,000 random programs as native code, held to the bounds that rounding leaves
	@$(BIN)/python -m tools.fuzz --count 100000 --log benchmarks/results/fuzz.json

docs: $(VENV)/.test ## run every example in README, docs and docstrings
	@$(PYTEST) tests/test_docs.py src/chainrule --doctest-modules

bars: $(VENV)/.bench ## measure what the project promises; goes on where it stopped
	@$(BIN)/python -m tools.bars

bench: $(VENV)/.bench ## race training steps against PyTorch, JAX and others on one core
	@$(BIN)/python -m benchmarks.race train

bench-docs: $(VENV)/.bench ## everything the race measures (an hour), written to docs/benchmarks.md
	@$(BIN)/python -m benchmarks.race all --write-docs

bench-ames: $(VENV)/.test ## five splits of Ames against scikit-learn's models
	@$(BIN)/python -m benchmarks.ames --check

clean: ## remove the environment, caches and builds; keeps runs/
	rm -rf $(VENV) build dist .coverage .coverage.* .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find src tests tools bars benchmarks -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null || true

# --- environments: one .venv, grown in steps, each redone when pyproject.toml changes ---

$(VENV)/.core: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "chainrule needs Python 3.11 or newer. Say where it is: make PYTHON=/path/to/python3.11"; exit 1; }
	@test -x $(BIN)/python || { echo "setup: creating $(VENV)"; $(PYTHON) -m venv $(VENV); }
	@echo "setup: installing chainrule and the libraries it needs"
	@$(PIP) -e .
	@touch $@

$(VENV)/.test: $(VENV)/.core
	@echo "setup: installing the test tools"
	@$(PIP) -e '.[test]'
	@touch $@

# PyTorch first, and its CPU build: left to itself, pip may choose one that brings gigabytes of CUDA.
$(VENV)/.check: $(VENV)/.test
	@echo "setup: installing PyTorch (CPU), the oracle for networks and optimizers"
	@$(PIP) '$(TORCH)+cpu' 2>/dev/null || $(PIP) '$(TORCH)' --index-url https://download.pytorch.org/whl/cpu
	@echo "setup: installing JAX, the oracle for derivatives, and the linters"
	@$(PIP) -e '.[test,dev,xla,browser]'
	@touch $@

$(VENV)/.bench: $(VENV)/.check
	@echo "setup: installing the libraries to race against"
	@$(PIP) -e '.[test,dev,xla,browser,bench]'
	@touch $@
