# Every target works as the first command in a fresh clone: it makes .venv and
# installs what it needs, once, and again when the requirements change.

PYTHON ?= python3
# A file's tests run in one process: what they share is trained once.
PYTEST_ARGS ?= -n 2 --dist loadfile

VENV := .venv
PY := $(VENV)/bin/python
PIP := $(PY) -m pip --disable-pip-version-check -qq install

.DEFAULT_GOAL := help
.PHONY: help demo test lint wheel bench figures notebook clean

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
	@$(PY) -m pytest -q --doctest-modules powerprop experiments

# The versions of requirements.txt, but no more packages than the wheel asks for.
wheel: $(VENV)/.installed-dev  ## install the library alone, and run the code in its pages
	@rm -rf build && $(PYTHON) -m venv build/wheel/env
	@$(PY) -m pip --disable-pip-version-check -qq wheel --no-deps -w build/wheel .
	@build/wheel/env/bin/python -m pip --disable-pip-version-check -qq install \
	  -c requirements.txt build/wheel/powerprop-*.whl
	@build/wheel/env/bin/python -I tests/alone.py README.md \
	  docs/continual_learning.md docs/sparse_training.md docs/transforms.md
	@echo 'import powerprop; n: str = powerprop.__version__' > build/wheel/user.py
	@cd build/wheel && $(CURDIR)/$(PY) -m mypy --config-file= \
	  --python-executable env/bin/python user.py

bench: $(VENV)/.installed  ## measure what is fast, as ratios
	@$(PY) -m benchmarks.run

figures: $(VENV)/.installed  ## make all committed figures and tables again from records
	@$(PY) -m experiments.report $(dir $(wildcard docs/results/*/records.npz))
	@$(PY) -m experiments.report.overview docs/results

notebook: $(VENV)/.installed-dev  ## run docs/quickstart.ipynb and keep its outputs
	@$(PY) -m tests.docs.test_notebook

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
