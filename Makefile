# make demo    see the bundled model at work
# make docs    the documentation site, into site/
# make test    lint, types and the core tests
# make test-wheel      the wheel, installed with its dependencies into a fresh environment; a minute or two
# make test-lowest     the core tests with the lowest versions that pyproject.toml allows; Python 3.11
# make test-engines    Ray, FSDP and vLLM for real, on a CPU; an environment of its own, half an hour
#
# They make a virtual environment in .venv (.venv-engines, .venv-lowest) first, and reinstall only when pyproject.toml or the
# versions change.
# Variables: PYTHON (the interpreter for .venv), VENV (where it goes), TORCH_INDEX (an extra package index to take
# torch from; a Linux machine without a GPU saves several GB with https://download.pytorch.org/whl/cpu).

PYTHON ?= python3
VENV ?= .venv
SITE ?= site
TORCH_INDEX ?=
PYTEST_ARGS ?=
VENV_ENGINES ?= .venv-engines
VENV_LOWEST ?= .venv-lowest
# What make test-lowest runs; empty for all core tests.
LOWEST_TESTS ?=

BIN := $(VENV)/bin
PIP_INSTALL := $(BIN)/python -m pip install --disable-pip-version-check --quiet -c constraints.txt
TORCH_OPTIONS := $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX))

.DEFAULT_GOAL := help
.PHONY: help demo test test-wheel test-lowest test-engines docs lint types tests format clean

help:
	@echo "make demo     install into $(VENV) and run grace-st demo"
	@echo "make test     install what is missing; ruff, mypy and the core tests"
	@echo "make test-wheel     install the wheel into a fresh environment, and use it there"
	@echo "make test-lowest    the core tests with the lowest supported versions, in $(VENV_LOWEST); Python 3.11"
	@echo "make test-engines   the verl and vLLM engines on a CPU, in $(VENV_ENGINES); Python 3.11 or 3.12"
	@echo "make lint     ruff only"
	@echo "make docs     build the documentation site into $(SITE)"
	@echo "make format   let ruff rewrite the files"
	@echo "make clean    remove $(VENV), builds and caches"

demo: $(VENV)/.installed
	@$(BIN)/grace-st demo

test: lint types tests

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.installed-dev
	$(BIN)/mypy

tests: $(VENV)/.installed-dev
	$(BIN)/pytest -m "not slow and not engines" -n auto --maxprocesses 4 $(PYTEST_ARGS)

test-wheel: $(VENV)/.installed-dev
	TORCH_INDEX=$(TORCH_INDEX) $(BIN)/pytest -m slow tests/test_packaging.py $(PYTEST_ARGS)

test-lowest: $(VENV_LOWEST)/.installed
	HF_HUB_OFFLINE=1 $(VENV_LOWEST)/bin/python -m pytest -m "not slow and not engines" -n auto --maxprocesses 4 \
	    $(LOWEST_TESTS) $(PYTEST_ARGS)

# Two at a time: each run starts a dozen processes one after the other, of up to 7 GB together.
test-engines: $(VENV_ENGINES)/.installed
	HF_HUB_OFFLINE=1 $(VENV_ENGINES)/bin/python -m pytest -m engines -n 2 --dist loadgroup \
	    -o faulthandler_timeout=900 tests/engines $(PYTEST_ARGS)

# Every warning is an error (mkdocs.yml). The theme's notice about its own successor is none, and is left out.
docs: $(VENV)/.installed-docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --site-dir $(abspath $(SITE))
	@echo "The site is in $(SITE)/index.html"

format: $(VENV)/.installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) $(VENV_ENGINES) $(VENV_LOWEST) $(SITE) build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/.created:
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; \
	    sys.exit(0 if (3, 11) <= v <= (3, 13) else "Python 3.11 to 3.13 is needed and this is %d.%d: " % v + \
	    "name another one, as in `make demo PYTHON=python3.12`.")'
	@echo "Making a virtual environment in $(VENV)"
	@$(PYTHON) -m venv $(VENV)
	@touch $@

# torch comes first and alone: its build for this machine is then settled before anything that depends on it.
$(VENV)/.installed: pyproject.toml constraints.txt | $(VENV)/.created
	@echo "Installing torch (the longest step, once)"
	@$(PIP_INSTALL) $(TORCH_OPTIONS) torch
	@echo "Installing grace-st and its other dependencies"
	@$(PIP_INSTALL) -e .
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	@echo "Installing the test tools"
	@$(PIP_INSTALL) -e ".[dev]"
	@touch $@

$(VENV)/.installed-docs: $(VENV)/.installed
	@echo "Installing the documentation tools"
	@$(PIP_INSTALL) -e ".[docs]"
	@touch $@

$(VENV_ENGINES)/.installed: pyproject.toml tests/engines/requirements.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; \
	    sys.exit(0 if (3, 11) <= v <= (3, 12) else "verl needs Python 3.11 or 3.12 and this is %d.%d: " % v + \
	    "name another one, as in `make test-engines PYTHON=python3.12`.")'
	@echo "Making a virtual environment for the engines in $(VENV_ENGINES)"
	@$(PYTHON) -m venv $(VENV_ENGINES)
	@echo "Installing torch, verl and vLLM (minutes, once)"
	@$(VENV_ENGINES)/bin/python -m pip install --disable-pip-version-check --quiet $(TORCH_OPTIONS) torch==2.13.0
	@$(VENV_ENGINES)/bin/python -m pip install --disable-pip-version-check --quiet -r tests/engines/requirements.txt
# Builds of another torch come along, which nothing needs and which keep transformers from being imported.
	@$(VENV_ENGINES)/bin/python -m pip uninstall --disable-pip-version-check --quiet --yes torchvision torchaudio torchcodec
	@$(VENV_ENGINES)/bin/python -m pip install --disable-pip-version-check --quiet --no-deps -e .
	@touch $@

$(VENV_LOWEST)/.installed: pyproject.toml constraints-lowest.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; \
	    sys.exit(0 if v == (3, 11) else "the lowest versions are those of Python 3.11 and this is %d.%d: " % v + \
	    "name another one, as in `make test-lowest PYTHON=python3.11`.")'
	@echo "Making a virtual environment for the lowest versions in $(VENV_LOWEST)"
	@$(PYTHON) -m venv $(VENV_LOWEST)
	@echo "Installing torch and the lowest versions of everything else"
	@$(VENV_LOWEST)/bin/python -m pip install --disable-pip-version-check --quiet $(TORCH_OPTIONS) -c constraints-lowest.txt torch
	@$(VENV_LOWEST)/bin/python -m pip install --disable-pip-version-check --quiet -c constraints-lowest.txt -e ".[dev]"
	@touch $@
