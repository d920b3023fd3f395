# `make` lists the verbs.  Everything happens in .venv, which the first verb that needs it makes.
PYTHON ?= python3
BIN := .venv/bin

.DEFAULT_GOAL := help
.PHONY: help install quickstart test test-slow check docs bench clean

help:  ## list the verbs
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 14

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and f"zeronorm needs Python 3.11 or newer, this is {sys.version}")'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade 'pip>=25.1'
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch==2.13.0
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable .
	touch $@

# The libraries that the adapters are tested against, and the tools: a few hundred megabytes that no user needs.
.venv/developing: .venv/installed
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable . --group dev
	touch $@

install: .venv/developing  ## make .venv and install zeronorm with its development tools

quickstart: .venv/installed  ## attack the digits models that ship with zeronorm, plain and robust, and write the reports
	$(BIN)/zeronorm evaluate --model digits --data digits --limit 200 --k 1,2,4,8 \
	  --steps 200 --queries 1000 --out runs/quickstart
	$(BIN)/zeronorm evaluate --model digits-robust --data digits --limit 200 --k 1,2,4,8 \
	  --steps 200 --queries 1000 --out runs/quickstart-robust
	$(BIN)/zeronorm report runs/quickstart runs/quickstart-robust --html runs/quickstart.html

test: .venv/developing  ## lint, types and the tests that take seconds each
	$(BIN)/ruff check . && $(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -n auto --dist worksteal --timeout 300 -m "not slow"

test-slow: .venv/developing  ## the tests that take minutes
	$(BIN)/python -m pytest -m slow

check: test  ## what CI runs

docs: .venv/installed  ## build the documentation into build/site; warnings are errors
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --group docs
	$(BIN)/python -m sphinx --builder html --conf-dir docs --fail-on-warning --keep-going --quiet . build/site
	@echo "documentation: build/site/index.html"

bench: .venv/developing  ## time of each attack against the bare passes of the model
	$(BIN)/python -m benchmarks

clean:  ## remove the environment and caches
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache build dist *.egg-info
