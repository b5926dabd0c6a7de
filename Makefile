# `make quickstart` and `make test` are all that a fresh clone needs; both make .venv first.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: quickstart test test-all lint types unit attack mutation docs format clean help

PYTHON ?= python3
BIN := .venv/bin

# The stamp is written last: without it .venv is half-made and is made anew; with an old one it is brought up to date.
.venv/.ready: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "error: $(PYTHON) is too old: constraints.txt needs Python 3.11 or newer; try make PYTHON=python3.12" >&2; exit 2; }
	@echo "== set-up: .venv with the versions of constraints.txt (several GB to fetch the first time)"
	@[ -e $@ ] || { rm -rf .venv; $(PYTHON) -m venv .venv; }
	@rm -f $@
	$(BIN)/python -m pip install --disable-pip-version-check --quiet -e '.[dev]' -c constraints.txt
	@touch $@

quickstart: .venv/.ready  ## all five phases on a phantom data set at 64 px, in runs/quickstart
	$(BIN)/medsegdiff quickstart --output_dir runs/quickstart

test: lint types unit  ## lint, types and all tests but the slow ones and the attacks

test-all: lint types  ## lint, types and every test
	@echo "== all tests"
	@$(BIN)/python -m pytest

lint: .venv/.ready  ## ruff: rules and format
	@echo "== lint"
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

types: .venv/.ready  ## mypy
	@echo "== types"
	@$(BIN)/mypy

unit: .venv/.ready  ## pytest without `slow` and `attack`, one worker a core
	@echo "== tests"
	@$(BIN)/python -m pytest -m "not slow and not attack"

attack: .venv/.ready  ## pytest: kill points, full disks, every bad input
	@$(BIN)/python -m pytest -m attack

mutation: .venv/.ready  ## damage diffusion, codec, splits and combine at random: do the tests notice?
	@$(BIN)/python tests/mutate.py

docs: .venv/.ready  ## the documentation as a site, in site/
	@$(BIN)/python docs/write_reference.py
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet
	@echo "site/index.html"

format: .venv/.ready  ## let ruff mend what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:  ## remove caches and runs/quickstart; .venv stays
	rm -rf runs/quickstart runs/quickstart.partial build dist site *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -path ./.venv -prune -o -type d -name __pycache__ -exec rm -rf {} +

help:  ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-11s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
