# `make` lists what there is. Everything runs in .venv, which `install` makes from the locked packages.

PYTHON ?= python3
RUN := .venv/bin
PIP := $(RUN)/python -m pip install --quiet --disable-pip-version-check
INSTALLED := .venv/.installed
TESTS := $(RUN)/python -m pytest -q -n 2 --dist loadfile

.DEFAULT_GOAL := help
.PHONY: help install demo test check lint types quick bench faults fuzz supply clean

help:  ## list these targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-9s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(INSTALLED)  ## make .venv with the locked packages (the others do it by themselves)

$(INSTALLED): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))' || { \
	  echo "Tollgate needs Python 3.11, 3.12 or 3.13, but '$(PYTHON)' is $$($(PYTHON) -V 2>&1): \
	name another, as in 'make install PYTHON=python3.13'." >&2; exit 1; }
	@$(PYTHON) -m venv .venv || { \
	  echo "'$(PYTHON) -m venv' failed: install Python's venv module (Debian: python3-venv)." >&2; exit 1; }
	@echo "Installing the locked packages into .venv; the first time takes a minute or two."
	$(PIP) --no-compile --require-hashes -r requirements.lock
	$(PIP) --no-deps --no-build-isolation --editable .
# Bytecode for all at once, on all cores: where Python must not write it (PYTHONDONTWRITEBYTECODE), every
# process would compile Feast anew. A file that doesn't compile is one for another Python: nothing imports it.
	@$(RUN)/python -m compileall -q -j 0 -x '/tests?/' .venv/lib >/dev/null || true
	@touch $@

demo: install  ## see all of it work: stack, backfill, training, live stream, retraining
	$(RUN)/tollgate demo

# Those in containers one after the other: a whole stack keeps both cores busy.
test: check  ## every test, also those that start servers
	$(TESTS) -m "(servers or slow) and not containers"
	$(RUN)/python -m pytest -q -m containers tests/containers

check: install  ## formatter, linter, types, import rules and quick tests, in under a minute
	@$(MAKE) --no-print-directory -k -j3 $(if $(filter output-sync,$(.FEATURES)),-Otarget) lint types quick

lint:
	$(RUN)/ruff format --check .
	$(RUN)/ruff check .
	$(RUN)/lint-imports

types:
	$(RUN)/mypy

quick:
	$(TESTS) -m "not servers and not containers and not slow"

bench: install  ## measure throughput and latency on this machine
	$(RUN)/tollgate bench

faults: install  ## disturb the stack in containers under load, and audit it
	$(RUN)/python -m tests.faults

# Meant to take some 15 minutes on two cores that have nothing else to do; TOLLGATE_SEED repeats a run.
fuzz: export TOLLGATE_CASES ?= 20000
fuzz: export TOLLGATE_EVENTS ?= 100000
fuzz: export TOLLGATE_MUTATIONS ?= 5000
fuzz: install  ## what strangers may send: 20,000 requests, 100,000 events, mutated files and messages
	@export TOLLGATE_SEED=$${TOLLGATE_SEED:-$$(date +%s)}; echo "TOLLGATE_SEED=$$TOLLGATE_SEED"; \
	  $(RUN)/python -m pytest -q -s --timeout 1800 tests/fuzz

supply: install  ## locked packages with licences; OSV=FILE: known vulnerabilities, from an OSV export
	@$(RUN)/tollgate supply $(if $(OSV),--osv "$(OSV)")

clean:  ## stop the stack, then remove .venv, its data and all caches
	@if [ -x $(RUN)/tollgate ]; then $(RUN)/tollgate down; fi
	rm -rf .venv .tollgate .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache build *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
