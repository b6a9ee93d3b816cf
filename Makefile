# Everything a developer does here; `make help` lists it.
# Needs python3 (3.11 or newer, with venv and headers), gcc and make; brings the rest along.

PYTHON ?= python3
JOBS ?= 2
FUZZ_SECONDS ?= 10
SEEDS ?= 1000
TEST_WORKERS ?= 3
VENV := .venv
BIN := $(VENV)/bin
CACHE := $(HOME)/.cache/bedplate
TOOLS := $(CACHE)/bin
export PIP_CACHE_DIR ?= $(CACHE)/pip
export GOMODCACHE ?= $(CACHE)/go/mod
export JOBS

GRPCURL_VERSION := v1.9.3
ETCD_VERSION := v3.6.16

C_FILES = $(wildcard $(addsuffix /*.[ch],native/include native/src native/bench native/tests native/fuzz bench))
C_INPUTS = $(wildcard native/include/*.h native/src/*.[ch] native/bench/*.[ch]) native/Makefile native/build.py
PROTO_INPUTS = $(wildcard proto/bedplate/*/v*/*.proto) proto/generate.py
PYTHON_TREES = $(wildcard daemon tests bench) setup.py native/build.py proto/generate.py
NATIVE = $(MAKE) --no-print-directory -C native -j$(JOBS)

.DEFAULT_GOAL := help
.NOTPARALLEL:
.DELETE_ON_ERROR:
.PHONY: help setup demo serve test test-native test-python soak nemesis nemesis-bites check format
.PHONY: bench bench-storm bench-cluster fuzz contract clean
.PHONY: tools-grpcurl tools-etcd

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' Makefile

setup: $(VENV)/.stubs $(VENV)/.native $(VENV)/.installed ## virtual environment in .venv, C extension, stubs
	@:

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "bedplate needs Python 3.11 or newer; name one with PYTHON=")'
	@echo 'setup: virtual environment'
	@$(PYTHON) -m venv $(VENV)

define REQUIREMENTS
import tomllib
metadata = tomllib.load(open("pyproject.toml", "rb"))
project = metadata["project"]
print(*metadata["build-system"]["requires"], sep="\n")
print(*project["dependencies"], *project["optional-dependencies"]["test"], sep="\n")
endef
export REQUIREMENTS

# Dependencies alone, so that a C file that does not compile yet never stands in their way.
$(VENV)/.dependencies: $(BIN)/python pyproject.toml
	@echo 'setup: dependencies (the first time takes a minute)'
	@$(BIN)/python -c "$$REQUIREMENTS" >$(VENV)/requirements.txt
	@$(BIN)/pip install --quiet --disable-pip-version-check -r $(VENV)/requirements.txt
	@touch $@

$(VENV)/.stubs: $(VENV)/.dependencies $(PROTO_INPUTS)
	@echo 'setup: stubs'
	@$(BIN)/python proto/generate.py daemon/bedplate/api
	@touch $@

$(VENV)/.native: $(VENV)/.dependencies setup.py $(C_INPUTS)
	@echo 'setup: C extension'
	@$(BIN)/python setup.py --quiet build_ext --inplace build_bench --inplace
	@touch $@

# Last, so that what does not compile is reported by its own step.
$(VENV)/.installed: $(VENV)/.dependencies setup.py | $(VENV)/.stubs $(VENV)/.native
	@echo 'setup: bedplate, editable'
	@$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

demo: setup ## a real directory tree, a killed daemon, every byte checked (DEMO_TREE=DIR)
	@$(BIN)/bedplate demo

serve: setup ## bedplated in the foreground, default configuration
	@$(BIN)/bedplated

test: setup test-native tools-grpcurl test-python ## every suite; BEDPLATE_TEST_STRICT=1 allows no skip

test-native: ## C tests plain and under sanitizers, short fuzz runs
	@$(NATIVE) test
	@$(NATIVE) test-asan
	@$(NATIVE) test-tsan
	@if { command -v clang-14 || command -v clang; } >/dev/null; then $(NATIVE) fuzz FUZZ_SECONDS=$(FUZZ_SECONDS); \
	elif [ "$$BEDPLATE_TEST_STRICT" = 1 ]; then echo 'fuzz: clang is missing; run tests/install-debian' >&2; exit 1; \
	else echo 'fuzz: skipped, clang is missing; tests/install-debian installs it'; fi

test-python: setup ## the pytest suite alone
	@PATH="$(TOOLS):$$PATH" $(BIN)/python -m pytest -n $(TEST_WORKERS) --dist loadfile $(PYTEST_ARGS)

soak: setup ## simulated clusters, each with its own faults: SEEDS=10000 on the model store and on the engine
	@$(BIN)/python -m tests.simulation.soak --seeds $(SEEDS) --jobs $(JOBS)
	@$(BIN)/python -m tests.simulation.soak --engine --seeds $(SEEDS) --jobs $(JOBS)

nemesis: setup ## faults on a real cluster, histories checked: NEMESIS_ARGS="--seconds 3600 --seed 7" (needs go)
	@$(BIN)/python -m tests.nemesis.run $(NEMESIS_ARGS)

nemesis-bites: setup ## rules broken on purpose, each of which the nemesis must find (needs go)
	@$(BIN)/python -m pytest -q tests/mutations -k nemesis

check: setup ## linters, formats, types, contract
	@echo 'check: ruff' && $(BIN)/ruff check $(PYTHON_TREES)
	@echo 'check: ruff format' && $(BIN)/ruff format --check --diff $(PYTHON_TREES)
	@echo 'check: lint-imports' && $(BIN)/lint-imports --no-logo --cache-dir build/import-linter
	@echo 'check: mypy' && $(BIN)/mypy $(PYTHON_TREES)
	@echo 'check: buf lint' && $(BIN)/buf lint
	@echo 'check: buf breaking' && $(BIN)/buf breaking --against proto/released.binpb
	@echo 'check: clang-format' && $(BIN)/clang-format --dry-run -Werror $(C_FILES)

format: setup ## rewrite Python and C in the agreed format
	@$(BIN)/ruff check --fix --quiet $(PYTHON_TREES) || true
	@$(BIN)/ruff format $(PYTHON_TREES)
	@$(BIN)/clang-format -i $(C_FILES)

bench: setup tools-etcd ## measure against other systems; results go to bench/results
	@PATH="$(TOOLS):$$PATH" $(BIN)/python -m bench.run $(BENCH_ARGS)

bench-cluster: setup tools-etcd ## the same of three nodes, beside three of etcd; 25 minutes
	@PATH="$(TOOLS):$$PATH" $(BIN)/python -m bench.cluster $(BENCH_ARGS)

bench-storm: setup ## the p99 of puts while a storm is cleaned up
	@$(BIN)/python -m bench.storm --output bench/results/storms.md

fuzz: ## fuzz for longer: FUZZ_SECONDS=600
	@$(NATIVE) fuzz FUZZ_SECONDS=$(FUZZ_SECONDS)

contract: setup ## at a release only: record the contract that later ones must not break
	@$(BIN)/buf build --exclude-source-info -o proto/released.binpb

tools-grpcurl: $(TOOLS)/grpcurl-$(GRPCURL_VERSION) ## grpcurl, for the tests of README (needs go)
tools-etcd: $(TOOLS)/etcd-$(ETCD_VERSION) ## etcd 3.6, for the benchmarks (needs go)

clean: ## remove what was built, not the cache
	@rm -rf $(VENV) build dist daemon/bedplate.egg-info
	@rm -rf daemon/bedplate/_native*.so daemon/bedplate/_bin/bedplate-bench daemon/bedplate/api/*/
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(TOOLS)/grpcurl-$(GRPCURL_VERSION):
	@if command -v go >/dev/null; then \
	    echo 'tools: building grpcurl $(GRPCURL_VERSION)'; mkdir -p $(TOOLS); \
	    { GOBIN=$(TOOLS) go install github.com/fullstorydev/grpcurl/cmd/grpcurl@$(GRPCURL_VERSION) && \
	      mv $(TOOLS)/grpcurl $@ && ln -sf $(@F) $(TOOLS)/grpcurl; \
	    } >$(CACHE)/grpcurl.log 2>&1 || { cat $(CACHE)/grpcurl.log; exit 1; }; \
	elif [ "$$BEDPLATE_TEST_STRICT" = 1 ]; then echo 'tools: grpcurl needs go' >&2; exit 1; \
	else echo 'tools: no grpcurl, go is missing'; fi

# Its go.mod redirects to its own checkout, so it is built from an empty module that requires it.
$(TOOLS)/etcd-$(ETCD_VERSION):
	@if command -v go >/dev/null; then \
	    echo 'tools: building etcd $(ETCD_VERSION)'; mkdir -p $(TOOLS); \
	    module=$$(mktemp -d); trap 'rm -rf "$$module"' EXIT; \
	    { cd "$$module" && go mod init etcd-for-bench && \
	      go get go.etcd.io/etcd/server/v3@$(ETCD_VERSION) go.etcd.io/etcd/etcdctl/v3@$(ETCD_VERSION) && \
	      go build -o $(TOOLS)/etcdctl-$(ETCD_VERSION) go.etcd.io/etcd/etcdctl/v3 && \
	      go build -o $@ go.etcd.io/etcd/server/v3; \
	    } >$(CACHE)/etcd.log 2>&1 || { cat $(CACHE)/etcd.log; exit 1; }; \
	else echo 'tools: no etcd $(ETCD_VERSION), go is missing; benchmarks use the one on PATH'; fi
