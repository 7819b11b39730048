# Two commands matter on a fresh machine: `make run` and `make test`. Everything lands in .venv and runs/.
PYTHON ?= python3
VENV := .venv
PEERS := .venv-peers
BIN := $(VENV)/bin
ARGS ?=
PYTEST_ARGS ?=
# The files that take longest come first, so that no process is left alone with one at the end.
TESTS ?= tests/rules/test_documented_commands.py tests/recipes/test_killed_runs.py tests/cli/test_bad_input.py tests/parallel tests
FAULT_TESTS := tests/faults tests/cli/test_bad_input.py tests/core/test_artifact.py tests/core/test_crash.py tests/core/test_lock.py tests/data/test_bad_files.py tests/data/test_executor.py tests/data/test_hostile_files.py tests/data/test_reading.py tests/parallel/test_launch.py tests/recipes/test_killed_runs.py tests/train/test_guard.py

.PHONY: run test faults layouts check bench clean help

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
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses logical --maxprocesses 4 --dist loadfile --no-loadscope-reorder $(PYTEST_ARGS) $(TESTS)

faults: $(VENV)/installed-dev  ## The faults of docs/reliability.md, with those that take minutes; best as root with strace
	$(BIN)/python -m pytest -m "" $(FAULT_TESTS) $(PYTEST_ARGS)

layouts: $(VENV)/installed-dev  ## Every mesh of processes against one process, of which `make test` runs some
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not faults" tests/parallel $(PYTEST_ARGS)

check: $(VENV)/installed-dev  ## What CI runs: style, types, layers, tests
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(MAKE) --no-print-directory test

$(PEERS)/installed: benchmarks/peers.txt
	$(PYTHON) -m venv $(PEERS)
	$(PEERS)/bin/python -m pip install --quiet --disable-pip-version-check --requirement benchmarks/peers.txt
	@touch $@

# It runs on our torch, so that both sides compute with the same: a folder beside our packages, not an environment.
$(PEERS)/litgpt/installed: $(VENV)/installed-dev benchmarks/litgpt.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --upgrade --target $(@D) --requirement benchmarks/litgpt.txt
	@touch $@

$(PEERS)/trl/installed: $(VENV)/installed-dev benchmarks/trl.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --upgrade --target $(@D) --requirement benchmarks/trl.txt
	@touch $@

bench: $(VENV)/installed-dev $(PEERS)/installed $(PEERS)/litgpt/installed $(PEERS)/trl/installed  ## Speed and memory against real peers, as ratios (HTML=folder of pages; DATA=folder with gsm8k and sentence polarity, ENCODER and DECODER=models to adapt)
	$(BIN)/python benchmarks/data.py --peer-python $(PEERS)/bin/python $(if $(HTML),--html $(HTML))
	$(BIN)/python benchmarks/quality_rules.py --peer-python $(PEERS)/bin/python
	$(BIN)/python benchmarks/near_duplicates.py --peer-python $(PEERS)/bin/python
	$(BIN)/python benchmarks/personal_data.py
	$(BIN)/python benchmarks/trace.py
	$(BIN)/python benchmarks/data_memory.py
	$(BIN)/python benchmarks/tokenizer.py
	$(BIN)/python benchmarks/losses.py
	$(BIN)/python benchmarks/models.py
	$(BIN)/python benchmarks/training_step.py --litgpt $(PEERS)/litgpt
	$(BIN)/python benchmarks/checkpoint_wait.py
	$(BIN)/python benchmarks/watching.py
	$(BIN)/python benchmarks/time_to_loss.py
	$(BIN)/python benchmarks/activation_memory.py
	$(BIN)/python benchmarks/quantised_step.py
	@test -z "$(DATA)" || $(BIN)/python benchmarks/adapter_step.py --data $(DATA)
	@test -z "$(DATA)" || $(BIN)/python benchmarks/instruction_tuning.py --data $(DATA) --trl $(PEERS)/trl
	@test -z "$(ENCODER)" || $(BIN)/python benchmarks/adapt_encoder.py --data $(DATA) --base $(ENCODER)
	@test -z "$(DECODER)" || $(BIN)/python benchmarks/adapt_decoder.py --data $(DATA) --base $(DECODER)

clean:  ## Remove caches and build products; runs/ and .venv stay
	rm -rf build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -not -path './.venv/*' -prune -exec rm -rf {} +
