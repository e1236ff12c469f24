# Every command of the project. Each makes the virtual environment that it needs, from nothing.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
CONSTRAINTS := constraints.txt
# As many processes as there are cores. Tests of one xdist_group share a process.
PARALLEL := -n auto --dist loadgroup

.PHONY: help demo test test-slow test-all lowest check docs dist bench format clean

help:  ## show these commands
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 11

demo: $(VENV)/examples  ## train a VAE of molecules under four configs and draw one picture: five minutes
	$(BIN)/python examples/molecules.py

test: $(VENV)/test  ## run the tests but the slow ones: what to run before a commit
	$(BIN)/python -m pytest $(PARALLEL) -m "not slow"

# Compiled code is kept from one run to the next.
test-slow: export TORCHINDUCTOR_CACHE_DIR := $(CURDIR)/.pytest_cache/inductor
test-slow: $(VENV)/test  ## run the slow tests: whole example programs, torchrun, inductor
	$(BIN)/python -m pytest $(PARALLEL) -m slow

test-all: test test-slow  ## run all tests: both of the above

# For Python 3.11, and by hand: it downloads gigabytes. Without the examples, where each warning is
# an error, and without process groups: those of torch 2.7 hang at times, on CPUs.
lowest:  ## run the tests of the package with the oldest torch, pydantic, ... allowed
	$(MAKE) .venv-lowest/test VENV=.venv-lowest CONSTRAINTS=constraints-lowest.txt
	.venv-lowest/bin/python -m pytest $(PARALLEL) -W ignore::DeprecationWarning -W ignore::FutureWarning --ignore tests/examples --ignore tests/distributed

check: $(VENV)/check  ## lint, format, types, and the import contract
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

docs: $(VENV)/docs  ## build the pages of docs/ into build/docs, strictly
	$(BIN)/sphinx-build --fail-on-warning --keep-going --quiet -b html docs build/docs
	@echo "open build/docs/index.html"

# The wheel is built from the sdist, and must be the one that the tree gives. It is tried outside
# of the tree, in an environment without anything else: first alone, then with extras.
dist: $(VENV)/dist  ## build sdist and wheel into dist/, check them, and try the wheel alone
	rm -rf dist build/dist
	$(BIN)/python -m build --outdir dist .
	$(BIN)/python -m build --outdir build/dist --wheel .
	cmp dist/*.whl build/dist/*.whl
	$(BIN)/twine check --strict dist/*
	set -e; try=$$(mktemp -d); trap 'rm -rf "$$try"' EXIT; wheel=$$(ls dist/*.whl); \
	$(PYTHON) -m venv "$$try"; \
	"$$try/bin/python" -m pip install --quiet --constraint $(CONSTRAINTS) "$$wheel"; \
	"$$try/bin/python" -I tests/smoke.py core; \
	"$$try/bin/python" -m pip install --quiet --constraint $(CONSTRAINTS) "$$wheel[cli,plot,sweep]"; \
	"$$try/bin/python" -I tests/smoke.py extras

bench: $(VENV)/bench  ## measure against the hand-written loop and peers: several minutes
	$(BIN)/python benchmarks/combine.py
	$(BIN)/python benchmarks/adaptive.py
	$(BIN)/python benchmarks/gradients.py
	$(BIN)/python benchmarks/schedules.py
	$(BIN)/python benchmarks/following.py
	$(BIN)/python benchmarks/groups.py

format: $(VENV)/check  ## format the code
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:  ## remove the virtual environment and what was made
	rm -rf $(VENV) .venv-lowest runs build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis

# To build the package takes neither its dependencies nor itself.
$(VENV)/dist: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade 'pip>=25.1'
	$(BIN)/python -m pip install --quiet --group dist
	touch $@

# The environment with one dependency group of pyproject.toml; the file marks that it is installed.
# Of molsets the examples read the data alone: what it requires is old and would not install.
$(VENV)/%: pyproject.toml $(CONSTRAINTS)
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade 'pip>=25.1'
	$(BIN)/python -m pip install --quiet --constraint $(CONSTRAINTS) --editable '.[yaml,gradients,cli,plot,sweep]' --group $*
	$(if $(filter examples test check,$*),$(BIN)/python -m pip install --quiet --no-deps 'molsets>=0.3.1')
	touch $@
