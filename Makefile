# make help lists what there is to make.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
PORT     ?= 8000
TORCH    ?= torch==2.13.0
DATA_DIR ?= data

.PHONY: help install dev dev-gpu serve test acceptance fuzz compatibility chaos check bench bench-peers pin clean

help:           ## this list
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' Makefile | expand -t 14

install: $(STAMP)  ## the program, in .venv

$(STAMP): requirements.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "MiniToolAI needs Python 3.11 or newer; try: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r requirements.txt
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

dev: $(VENV)/.dev  ## the program and what its tests need

$(VENV)/.dev: $(STAMP) requirements-dev.txt
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r requirements-dev.txt
	@touch $@

dev-gpu: $(VENV)/.dev-gpu  ## dev, and what the GPU engine needs; torch for this machine's GPU, or TORCH="torch --index-url ..."

$(VENV)/.dev-gpu: $(VENV)/.dev requirements-gpu.txt
	$(BIN)/pip install --quiet --disable-pip-version-check $(TORCH)
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r requirements-gpu.txt
	@touch $@

serve: install  ## the server on PORT (8000), with a demo account; DATA_DIR (data) holds everything
	@exec $(BIN)/minitoolai serve --demo --port $(PORT) --data-dir $(DATA_DIR)

test: dev       ## every quick test
	$(BIN)/pytest -n 3 --dist worksteal -m "not acceptance and not chaos"

acceptance: dev ## the long tests, against real servers
	$(BIN)/pytest -m acceptance --durations=30

fuzz: dev       ## ten minutes of schemathesis over /openapi.json
	FUZZ_S=600 $(BIN)/pytest tests/acceptance/test_fuzz.py

compatibility: dev ## run every client and write docs/reference/compatibility.md
	$(BIN)/python -m tools.compatibility

chaos: dev      ## the proofs of docs/ledger.md, at length
	$(BIN)/python -m tests.chaos

check: dev      ## formatting, lint, types, floors
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m tools.openapi --check

bench: dev      ## side by side with peers: one table
	$(BIN)/python -m bench

bench-peers: dev ## the peers, under bench/.cache
	$(BIN)/python -m bench.peers

pin: dev        ## pin the newest packages by version and hash
	tools/pin.sh

clean:          ## forget the environment and caches
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis
