# Two commands matter on a fresh machine: `make run` and `make test`. Everything lands in .venv and runs/.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
ARGS ?=
PYTEST_ARGS ?=

.PHONY: run test check bench clean help

help:  ## List the targets
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/'

$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable .
	@touch $@

$(VENV)/installed-dev: $(VENV)/installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev,bench]'
	@touch $@

run: $(VENV)/installed  ## Raw documents to a model that answers, in runs/default (ARGS="tiny --out runs/tiny" for another)
	$(BIN)/preceptor run $(ARGS)

test: $(VENV)/installed-dev  ## All tests, without network
	$(BIN)/python -m pytest $(PYTEST_ARGS)

check: $(VENV)/installed-dev  ## What CI runs: style, types, layers, tests
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(MAKE) --no-print-directory test

bench: $(VENV)/installed-dev  ## Speed and memory against real peers, as ratios
	$(BIN)/python benchmarks/tokenizer.py
	$(BIN)/python benchmarks/training_step.py
	$(BIN)/python benchmarks/time_to_loss.py

clean:  ## Remove caches and build products; runs/ and .venv stay
	rm -rf build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -not -path './.venv/*' -prune -exec rm -rf {} +
