# Every target works as the first command in a fresh clone: it makes .venv and
# installs what it needs, once, and again when the requirements change.

PYTHON ?= python3
# A file's tests run in one process: what they share is trained once.
PYTEST_ARGS ?= -n 2 --dist loadfile

VENV := .venv
PY := $(VENV)/bin/python
PIP := $(PY) -m pip --disable-pip-version-check -qq install

.DEFAULT_GOAL := help
.PHONY: help demo test lint bench figures notebook clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-9s %s\n", $$1, $$2 }' \
	  $(MAKEFILE_LIST)
	@echo 'Another Python: make demo PYTHON=python3.12 (after make clean).'

demo: $(VENV)/.installed  ## train and prune a small net on handwritten digits
	@$(PY) -m experiments.one_shot --config=configs/digits.py \
	  --workdir=runs/digits

test: $(VENV)/.installed-dev  ## run the tests; PYTEST_ARGS='-x -k name' selects
	@$(PY) -m pytest $(PYTEST_ARGS)

lint: $(VENV)/.installed-dev  ## style, formatting, types and doctests
	@$(PY) -m ruff check
	@$(PY) -m ruff format --check
	@$(PY) -m mypy
	@$(PY) -m pytest -q --doctest-modules powerprop

bench: $(VENV)/.installed  ## measure what is fast, as ratios
	@$(PY) -m benchmarks.run

figures: $(VENV)/.installed  ## make all committed figures and tables again from records
	@$(PY) -m powerprop.continual_plots $(dir $(wildcard docs/results/*/records.npz))

notebook: $(VENV)/.installed-dev  ## run docs/quickstart.ipynb and keep its outputs
	@$(PY) tests/test_notebook.py

clean:  ## remove .venv, builds and caches; runs/ stays
	@rm -rf $(VENV) build dist *.egg-info
	@rm -rf .hypothesis .mypy_cache .pytest_cache .ruff_cache
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

# An environment that is none, or has no pip, broke off while it was made.
$(VENV)/.installed: requirements.txt setup.py
	@$(PYTHON) -c '' 2> /dev/null || { \
	  echo '$(PYTHON) does not run here: install Python 3.11 or newer, or name' \
	    'another, as in make demo PYTHON=python3.12.' >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "$(PYTHON) is $$($(PYTHON) -V 2>&1), but powerprop needs 3.11 or" \
	    'newer: name another, as in make demo PYTHON=python3.12.' >&2; exit 1; }
	@$(PY) -c 'import sys, pip; sys.exit(sys.prefix == sys.base_prefix)' \
	  2> /dev/null || $(PYTHON) -m venv --clear $(VENV)
	@echo 'Installing into $(VENV): about a minute, 1.2 GB.'
	@$(PIP) -r requirements.txt
	@$(PIP) --no-deps -e .
	@touch $@

$(VENV)/.installed-dev: requirements-dev.txt $(VENV)/.installed
	@echo 'Installing the tools for tests and style into $(VENV).'
	@$(PIP) -r requirements-dev.txt
	@touch $@
