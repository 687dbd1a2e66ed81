# Two commands, each of which sets itself up in .venv: make demo (FAST=1: a few steps only) and make test.
# PYTHON is the interpreter that makes .venv; OUTPUT is where the demo writes.
PYTHON ?= python3
OUTPUT ?= runs/demo
BIN := .venv/bin

.PHONY: demo test lint

demo: .venv/installed-demo
	$(BIN)/python -m shear_lit demo --output=$(OUTPUT) $(if $(filter-out 0,$(FAST)),--fast)

test: lint
	$(BIN)/python -m pytest

lint: .venv/installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# A stamp is older than pyproject.toml only where something may have to be installed.
.venv/installed-demo: pyproject.toml setup.py | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable '.[demo]'
	touch $@

.venv/installed-test: pyproject.toml setup.py | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable '.[test,demo,corpus]'
	touch $@ .venv/installed-demo

$(BIN)/python:
	$(PYTHON) -m venv .venv
