# Every command of the project; CI calls the same ones. `make demo` and `make test` set up everything by themselves.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
UV     := $(BIN)/uv
# Where real processes and servers share a busy machine, one failure is tried again; CI lists what needed it.
TWICE  := --reruns 1

.PHONY: help demo test check format bench bench-cluster simulate clean unit integration e2e release reference environments servers images faults faults-once
.DEFAULT_GOAL := help

help:  ## show this list
	@grep -hE '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

$(VENV)/.base: pyproject.toml uv.lock
	@$(PYTHON) -c 'import sys; sys.exit("Cloche needs Python 3.11 or newer; this is %s. Set PYTHON=python3.11." % sys.version.split()[0] if sys.version_info < (3, 11) else 0)'
	@echo "Setting up $(VENV) …"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	@$(UV) sync --quiet --frozen --no-dev --inexact
	@touch $@

$(VENV)/.dev: $(VENV)/.base
	@$(UV) sync --quiet --frozen
	@touch $@

demo: $(VENV)/.base  ## the main job end to end: environment, build, run, model, service, score
	@$(BIN)/python -u examples/quickstart/demo.py

check: $(VENV)/.dev  ## formatting, lint, types, import contracts
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m cloche._openapi --check
	$(BIN)/python docs/generate.py --check

reference: $(VENV)/.dev  ## make the OpenAPI document and the reference pages anew
	$(BIN)/python -m cloche._openapi
	$(BIN)/python docs/generate.py

format: $(VENV)/.dev  ## format and fix what can be fixed
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

environments: $(VENV)/.dev  ## a Docker engine and the images of the real servers that tests start
	$(BIN)/python -m tests.environments build

servers: $(VENV)/.dev
	@$(BIN)/python -m tests.environments build --if-possible

images: $(VENV)/.base  ## the images of `docker compose up`; here packages are fetched, not in the builds
	@$(BIN)/python compose/images.py

unit: $(VENV)/.dev  ## unit and contract tests
	$(BIN)/python -m pytest -q -n 2 tests/unit tests/contract

simulate: $(VENV)/.dev  ## seeded histories of all four services
	$(BIN)/python -m pytest -q -n 2 tests/simulation

integration: $(VENV)/.dev  ## real processes, files and sockets
	$(BIN)/python -m pytest -q -n 2 $(TWICE) tests/integration

e2e: $(VENV)/.dev  ## the behaviour suite, delayed by 2 s, and on four services; of these the main job with three replicas and delayed
	$(BIN)/python -m pytest -q -n 8 $(TWICE) tests/e2e
	CLOCHE_TEST_DELAY=2 $(BIN)/python -m pytest -q -n 8 $(TWICE) tests/e2e -m "not slow"
	CLOCHE_TEST_TOPOLOGY=cluster $(BIN)/python -m pytest -q -n 6 $(TWICE) tests/e2e -m "not slow and not direct"
	CLOCHE_TEST_TOPOLOGY=cluster CLOCHE_TEST_REPLICAS=3 $(BIN)/python -m pytest -q -n 4 $(TWICE) tests/e2e -m main_job
	CLOCHE_TEST_TOPOLOGY=cluster CLOCHE_TEST_DELAY=2 $(BIN)/python -m pytest -q -n 8 $(TWICE) tests/e2e -m main_job

faults: $(VENV)/.dev  ## each fault CLOCHE_FAULTS times (10) at full length, on real servers; prints the counts
	CLOCHE_FAULTS=$${CLOCHE_FAULTS:-10} $(BIN)/python -m pytest -q -n 2 tests/faults

faults-once: $(VENV)/.dev  ## each fault at least once, with short pauses
	CLOCHE_FAULTS=1 $(BIN)/python -m pytest -q -n 2 $(TWICE) tests/faults

release: $(VENV)/.dev  ## wheel and sdist in empty environments; README and tutorial as typed
	$(BIN)/python -m pytest -q tests/release

test: servers unit simulate integration e2e release  ## everything that can fail

bench: $(VENV)/.dev  ## measure, each figure beside its ceiling
	$(BIN)/python -m benchmarks

bench-cluster: $(VENV)/.dev  ## measure four processes on Kafka, a document store and S3
	$(BIN)/python -m benchmarks.cluster

clean:  ## remove what was made here
	rm -rf $(VENV) build dist .demo .bench .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
