# The one entry: make demo, make test, make lint. Each sets itself up first.
.DEFAULT_GOAL := help
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
ARGS ?=

.PHONY: help setup demo test lint format bench lock package clean

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-9s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(VENV)/.ready: pyproject.toml requirements-dev.txt requirements-tpm.txt tools/setup
	@PYTHON=$(PYTHON) tools/setup $(VENV)

setup: $(VENV)/.ready ## make .venv with every command of the project

demo: setup ## take a model into two devices and refuse a third (ARGS="--json FILE", ARGS="--keep")
	@$(BIN)/local-cloud demo $(ARGS)

test: setup ## run all the tests (ARGS are pytest's)
	@$(BIN)/pytest -n 2 --dist worksteal $(ARGS)

lint: setup ## ruff, mypy, import rule
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-logo

format: setup ## let ruff rewrite what it can
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

bench: setup ## measure packages beside age and openssl (ARGS="--size 256M --rounds 3", ARGS="--json FILE")
	@$(BIN)/python bench/package.py $(ARGS)

lock: setup ## renew the locks, requirements*.txt, from pyproject.toml
	@tools/lock $(VENV)

package: setup ## build the wheel into dist/
	@$(BIN)/pip wheel --quiet --no-deps --no-build-isolation --wheel-dir dist .

clean: ## remove what the other targets made
	rm -rf $(VENV) .demo .local-cloud dist build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
