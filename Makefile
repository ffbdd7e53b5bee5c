# Two commands do everything on a fresh machine with Python 3.11+: `make demo` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
DEMO_ARGS ?=
export PIP_DISABLE_PIP_VERSION_CHECK := 1
export RETREEVER_WORKSPACE ?= $(CURDIR)/workspace
# Nothing is written outside the checkout, but for pip's cache and Ray's session folder.
export MPLCONFIGDIR ?= $(RETREEVER_WORKSPACE)/cache/matplotlib
# pip compiles all of every package, half of the set-up's time; what is imported is compiled, and kept, when it is.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help setup demo test test-slow test-gpu test-page lint format docs clean
help:  ## show the commands
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-10s %s\n", $$1, $$2}'

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.11")'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing into $(VENV) (a few minutes the first time) ..."
	@$(BIN)/python -m pip install --quiet --no-compile --constraint constraints.txt --editable '.[dev]'
	@touch $@

setup: $(STAMP)  ## make .venv and install everything, pinned

demo: setup  ## corpus, sweep, training, verdict, promotion, service
	@$(BIN)/retreever demo $(DEMO_ARGS)

test: setup lint  ## lint, types, layers and all fast tests
	@$(BIN)/python -m pytest

test-slow: setup  ## tests that take minutes
	@$(BIN)/python -m pytest -m slow

test-gpu: setup  ## tests that need a CUDA device
	@$(BIN)/python -m pytest -m gpu

test-page: setup  ## tests of the page in chromium
	@$(BIN)/python -m pytest -m page

lint: setup  ## ruff, mypy, import-linter
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-cache

format: setup  ## rewrite the code as ruff wants it
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

docs: setup  ## the documentation as a site, in site/
	@$(BIN)/mkdocs build --strict --quiet

clean:  ## remove .venv and everything made
	rm -rf $(VENV) workspace site build .pytest_cache .mypy_cache .ruff_cache *.egg-info
