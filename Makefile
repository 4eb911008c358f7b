.PHONY: help run test check install docs lock matrix
.DEFAULT_GOAL := help

# the environment that is active, or one of this folder
ENV := $(or $(VIRTUAL_ENV),$(CONDA_PREFIX),.venv)
PYTHON ?= python3
IN := PATH="$(abspath $(ENV))/bin:$$PATH"

help:      ## this list
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*##/\t/'

run: $(ENV)/.redi ## install what is missing, then the main job
	@$(IN) redi

test: check docs ## install what is missing, then everything that has to pass
	@echo "Tests: everything that has to pass"
	@$(IN) pytest

check: $(ENV)/.redi-test ## style and types
	@echo "Style and types"
	@$(IN) ruff check . && $(IN) ruff format --check . && $(IN) mypy

install: $(ENV)/.redi-test ## redi and its test tools, into the active environment or .venv
	@echo "Installed in $(ENV)"

docs: $(ENV)/.redi-test ## the documentation site, into site/
	@$(IN) python -m notebooks.pages
	@echo "Documentation: site/index.html"
	@$(IN) zensical build --strict

lock: $(ENV)/bin/uv ## choose new exact versions for make and CI
	@$(IN) uv pip compile --quiet --universal --python-version 3.11 --upgrade --extra test \
		--no-annotate --no-header pyproject.toml --output-file constraints.txt

matrix: $(ENV)/bin/uv ## tests with old and new versions of what redi depends on (an hour)
	@$(IN) $(PYTHON) experiments/matrix/run.py

# Environments: a stamp says what is installed, and lasts as long as the versions do.

$(ENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "redi needs Python 3.11 or newer: make PYTHON=python3.11 $(MAKECMDGOALS)"; exit 1; }
	@echo "Making the environment $(ENV)"
	@$(PYTHON) -m venv $(ENV)

$(ENV)/bin/uv: | $(ENV)/bin/python
	@command -v uv >$@.found && ln -sf "$$(cat $@.found)" $@; rm -f $@.found; \
		test -e $@ || { echo "Installing uv"; $(ENV)/bin/python -m pip install --quiet uv; }

INSTALL = $(IN) uv pip install --quiet --python $(ENV)/bin/python --constraint constraints.txt

$(ENV)/.redi: pyproject.toml constraints.txt | $(ENV)/bin/uv
	@echo "Installing redi into $(ENV) (about 7 GB, mostly PyTorch)"
	@$(INSTALL) --editable . && touch $@

$(ENV)/.redi-test: pyproject.toml constraints.txt | $(ENV)/bin/uv
	@echo "Installing redi and its test tools into $(ENV) (about 7 GB, mostly PyTorch)"
	@$(INSTALL) --editable '.[test]' && touch $@ $(ENV)/.redi
