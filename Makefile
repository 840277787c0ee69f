# Hilum. `make run` and `make test` do all the set-up themselves; `make help` lists the rest.
SHELL := /bin/bash
.DEFAULT_GOAL := help
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
NANO := shared/medmo/checkpoints/medmo-nano
PACKAGES := shared/hilum shared/medmo services/listener services/worker services/results services/console \
  services/modelops services/standalone
SOURCES := $(wildcard $(addsuffix /src,$(PACKAGES)))
DATA ?= hilum-data
DICOM_PORT ?= 11112
HTTP_PORT ?= 8080
PYTEST ?= $(BIN)/pytest

SECONDS ?= 300
CORPUS := tests/fuzz/corpus

.PHONY: help setup run test check bench chaos fuzz prove-kill lock services train-setup test-modelops prove-fresh clean

help:  ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## */\1\t/' | expand -t 16

setup: $(VENV)/.product  ## create the environment (.venv) and build MedMO-Nano's ONNX
	@$(BIN)/hilum-medmo build --checkpoint $(NANO)

run: setup  ## start everything on this machine, send sample studies, open the worklist
	$(BIN)/hilum up --demo --data $(DATA) --dicom-port $(DICOM_PORT) --http-port $(HTTP_PORT)

test: setup services $(VENV)/.test check  ## install and start the real services, run every test
	$(PYTEST) tests

check: $(VENV)/.test  ## lint, format, types, import layers
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy $(SOURCES) tests triton_models
	$(BIN)/lint-imports --no-logo

bench: setup $(VENV)/.test  ## measure; docs/benchmarks.md says what and how
	$(BIN)/python -m hilum_standalone.bench
	$(BIN)/python -m hilum_standalone.ingest.bench
	$(BIN)/python -W ignore -m hilum_standalone.capacity
	$(BIN)/python -m hilum_worker.bench
	$(BIN)/python -m hilum_standalone.ledger_bench

fuzz: setup $(VENV)/.fuzz  ## fuzz the PDU reader, the Part 10 indexer and STOW for SECONDS=N; what breaks stays as a test
	$(BIN)/python -m hilum_listener.fuzzing --seconds $(SECONDS) --corpus $(CORPUS)

chaos: setup services $(VENV)/.test  ## a cluster under fire: FAULTS=200 over STUDIES=500, from a printed SEED
	$(BIN)/python -W ignore -m hilum_standalone.chaos --faults $(or $(FAULTS),200) --studies $(or $(STUDIES),500) \
	  $(if $(SEED),--seed $(SEED))

prove-kill: setup $(VENV)/.test  ## kill -9 the receiver between every two steps, 500 rounds (ROUNDS=n)
	$(BIN)/python -W ignore -m hilum_listener.testing_kill --rounds $(or $(ROUNDS),500)

services: setup  ## install the programs that tests meet (Debian packages need root)
	@tests/tools/install-services
	@tests/tools/install-triton $(BIN)

lock: $(VENV)/.bootstrap  ## renew requirements/*.txt from the pyproject.toml files
	$(BIN)/uv lock --upgrade
	$(call export,bootstrap,--only-group bootstrap)
	$(call export,product,--all-packages --group build)
	$(call export,test,--all-packages --group build --group test --group check)
	$(call export,fuzz,--only-group fuzz)
	$(call export,train,--package hilum-modelops --group train)
	$(BIN)/uv pip compile -q --no-deps --universal --python-version 3.11 --generate-hashes --upgrade --no-header \
	  --no-annotate --no-emit-index-url requirements/triton.in -o requirements/triton.txt

export = $(BIN)/uv export -q --frozen --no-emit-workspace --no-header --no-annotate $(2) -o requirements/$(1).txt >/dev/null

$(VENV)/.bootstrap: requirements/bootstrap.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Hilum needs Python 3.11 or newer"; exit 1; }
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || { echo "Python's venv module is missing: apt-get install python3-venv"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -q --disable-pip-version-check --require-hashes -r requirements/bootstrap.txt
	@touch $@

$(VENV)/.product: $(VENV)/.bootstrap requirements/product.txt $(addsuffix /pyproject.toml,$(PACKAGES))
	$(BIN)/uv pip install -q --python $(BIN)/python --require-hashes -r requirements/product.txt
	$(BIN)/uv pip install -q --python $(BIN)/python --no-deps --no-build-isolation $(addprefix -e ,$(PACKAGES))
	@touch $@

$(VENV)/.test: $(VENV)/.product requirements/test.txt
	$(BIN)/uv pip install -q --python $(BIN)/python --require-hashes -r requirements/test.txt
	@touch $@

$(VENV)/.fuzz: $(VENV)/.test requirements/fuzz.txt
	$(BIN)/uv pip install -q --python $(BIN)/python --require-hashes -r requirements/fuzz.txt
	@touch $@

train-setup: $(VENV)/.bootstrap  ## a second environment (.venv-modelops) with torch, for training only
	$(PYTHON) -m venv .venv-modelops
	$(BIN)/uv pip install --python .venv-modelops/bin/python --require-hashes -r requirements/train.txt
	$(BIN)/uv pip install --python .venv-modelops/bin/python --no-deps --no-build-isolation \
	  -e shared/medmo -e services/modelops

test-modelops: train-setup  ## the trainer's tests, which need torch and are skipped by `make test`
	$(BIN)/uv pip install --python .venv-modelops/bin/python -c requirements/test.txt pytest
	.venv-modelops/bin/python -m pytest -q -p no:cacheprovider tests/unit/modelops/test_training.py

prove-fresh:  ## the set-up and the demo on a Debian that has nothing (needs root and debootstrap)
	tests/tools/fresh-machine

clean:  ## remove environments and build products, never data
	rm -rf .venv .venv-modelops build dist .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
