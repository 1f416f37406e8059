# Each command sets up .venv by itself when it is missing or out of date; nothing but Python 3.11 or newer is needed.
PYTHON ?= python3
# How many test processes; each gets one thread for torch, since the tests' tensors are small.
WORKERS ?= 2
# Random models in all; `make test` tries fewer.
EXAMPLES ?= 60

venv := .venv
python := $(venv)/bin/python
installed := $(venv)/.installed
installed_peers := $(venv)/.installed-peers
install := $(python) -m pip install --disable-pip-version-check --quiet -c constraints.txt
# The passes are linted where they are, not again through the symlink in upscale_fx.
linted := upscale_fx passes examples tests
pytest := OMP_NUM_THREADS=1 $(python) -m pytest -n $(WORKERS) --dist worksteal

.PHONY: help demo test test-all nightly test-versions lint types format compare bench results clean

help:
	@echo "make demo     train, prune and compare a graph neural network"
	@echo "make test     run the tests that take minutes"
	@echo "make test-all run all of them, as CI does"
	@echo "make nightly  run all of them with every amount, and with 10,200 random models"
	@echo "make test-versions  run those of make test with the oldest and the newest libraries that will do (12 GB)"
	@echo "make lint     check style"
	@echo "make types    check types"
	@echo "make format   rewrite the code in the project's style"
	@echo "make compare  run the same models through other pruning tools"
	@echo "make bench    time them beside PyG and others, on a graph of 169,343 nodes"
	@echo "make results  accuracy beside other criteria, pruners and narrow models: hours, resumable"
	@echo "make clean    remove environments and caches"

demo: $(installed)
	$(python) examples/prune_gnn.py

test: $(installed)
	$(pytest) -m "not slow"

test-all: $(installed)
	UPSCALE_FX_EXAMPLES=$(EXAMPLES) $(pytest)

nightly: $(installed)
	UPSCALE_FX_AMOUNTS=all UPSCALE_FX_EXAMPLES=$$((170 * $(EXAMPLES))) $(pytest)

test-versions:
	$(PYTHON) tests/versions.py --workers $(WORKERS)

lint: $(installed)
	$(python) -m ruff check $(linted)
	$(python) -m ruff format --check $(linted)

types: $(installed)
	$(python) -m mypy

format: $(installed)
	$(python) -m ruff check --fix $(linted)
	$(python) -m ruff format $(linted)

compare: $(installed_peers)
	$(python) examples/compare.py

bench: $(installed_peers)
	$(python) -m upscale_fx bench

results: $(installed_peers)
	$(python) examples/results.py

clean:
	rm -rf $(venv) .venv-versions build dist *.egg-info .hypothesis .mypy_cache .pytest_cache .ruff_cache

$(installed): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("upscale_fx needs Python 3.11 or newer, not " + sys.version.split()[0] + ": try make PYTHON=python3.12")'
	@test -x $(venv)/bin/pip || $(PYTHON) -m venv $(venv)
	@echo "Installing into $(venv) (the first time takes some minutes)"
	@$(install) -e '.[dev,draw]'
	@touch $@

# apple-upscale requires torch 2.0.1 exactly, but its code runs on newer ones: without dependencies, it can be tried.
$(installed_peers): $(installed)
	@$(install) -e '.[compare]'
	@$(install) --no-deps apple-upscale
	@touch $@
