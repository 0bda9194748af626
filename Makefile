# Two commands do all the set-up on a fresh machine: `make train` (the main job) and `make test`.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip --disable-pip-version-check
PYTEST := $(BIN)/python -m pytest --dist loadfile
TORCH  := $(shell grep '^torch==' constraints.txt)

# Where `make train` writes, or goes on (make train RUNS=...); a run directory is never written over.
ifndef RUNS
RUNS := runs/main-$(shell date +%Y%m%d-%H%M%S)
endif
# More flags for the two trainings of the main job, such as FLAGS="--seed 2".
FLAGS ?=

.PHONY: help install train test test-fast test-slow test-machines lint types docs dist format clean

help:
	@echo 'make train          train memory/tmaze by RTRL and by TBPTT, evaluate both, plot (a few minutes on 2 cores)'
	@echo 'make test           lint, types, and all tests but the slow ones'
	@echo 'make test-slow      the slow ones: clusters, trainings through Ray, whole benchmarks'
	@echo 'make test-machines  a training on machines that are killed and unplugged: as root, five minutes'
	@echo 'make install        only the set-up: .venv with everything that the others need'
	@echo 'make docs           build the documentation as a site, in site/'
	@echo 'make dist           build the wheel and the source distribution, and check them'
	@echo 'make format         let ruff format the code'
	@echo 'make clean          remove .venv and caches (runs/ stays)'

install: $(VENV)/installed

# torch first and pinned: whatever asks for torch later is satisfied by it. ProcGen's engine for Python 3.11 and 3.12
# goes in without its dependencies, because it pins packages of 2021 that it runs without.
$(VENV)/installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "r2ac needs Python 3.11 or later, but $(PYTHON) is " + sys.version.split()[0] + ": make PYTHON=/path/to/python3.11 ...")'
	$(PYTHON) -m venv $(VENV)
	$(PIP) install --quiet --constraint constraints.txt $(TORCH)
	$(PIP) install --quiet --constraint constraints.txt --editable '.[atari,procgen,popgym,minigrid,video,cluster,examples,export,hub,docs,dev]'
	$(PIP) install --quiet --no-deps "procgen-mirror==0.10.7; python_version < '3.13'" "gym3==0.3.3; python_version < '3.13'"
	touch $@

train: install
	@for gradient in rtrl tbptt; do \
		run=$(RUNS)/$$gradient; \
		if [ -e $$run ]; then set -- --resume $$run; \
		else set -- memory/tmaze --algorithm vtrace --gradient $$gradient --run-dir $$run; fi; \
		echo "r2ac train $$* $(FLAGS)"; \
		$(BIN)/r2ac train "$$@" $(FLAGS) || { echo "make train RUNS=$(RUNS) goes on with what is there" >&2; exit 1; }; \
	done
	$(BIN)/r2ac evaluate $(RUNS)/rtrl $(RUNS)/tbptt --episodes 500
	$(BIN)/r2ac plot $(RUNS)/rtrl $(RUNS)/tbptt --output $(RUNS)/curves.png

# At the same time: mypy has one process, and tests wait now and then.
test: install
	@$(MAKE) --no-print-directory --jobs=2 lint types test-fast

# Two files at a time: tests of a file may share what is dear to start, such as a Ray.
test-fast: install
	$(PYTEST) -n 2 -m 'not slow'

# The wheel's test comes after the others: it installs gigabytes, and what they write would have to wait for the disk.
test-slow: install
	$(PYTEST) -n 2 -m slow --ignore tests/test_wheel.py
	$(BIN)/python -m pytest -m slow tests/test_wheel.py

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# Any warning, such as a link to nowhere, is an error.
docs: install
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet

# What is uploaded to a package index, built in a clean environment and checked.
dist: install
	$(PIP) install --quiet build twine
	rm -rf dist
	$(BIN)/python -m build
	$(BIN)/python -m twine check --strict dist/*

types: install
	$(BIN)/mypy

# Needs root and the command ip: every kind of failure on machines that are network namespaces, in about five minutes.
test-machines: install
	R2AC_MACHINE_TESTS=1 $(BIN)/python -m pytest tests/launch/cluster/test_separate_machines.py

format: install
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache *.egg-info build dist site
