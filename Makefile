# Heliograph: `make` lists the targets. Everything lives in this checkout: .venv/ (packages) and build/ (what is derived).
# POSIX sh and GNU make; .ci/setup says in words what a machine lacks.

.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory
.DELETE_ON_ERROR:

BIN := .venv/bin
export PATH := $(CURDIR)/$(BIN):$(PATH)
# pytest's temporary folders stay inside the checkout
PYTEST := $(BIN)/python -m pytest --basetemp=build/pytest
NATIVE := $(wildcard ext/*.pyx ext/*.pxd ext/include/*.h load/*.pyx load/*.pxd load/*.h bench/floor/*.pyx)

.PHONY: help setup demo demo-cluster serve test lint unit docs load load-short test-asan test-tsan test-chaos test-api test-operator test-cluster
.PHONY: chaos-fleet test-im bench bench-quick bench-memory bench-units bench-units-baseline simulate wheel clean distclean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-20s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: .venv/native.stamp ## packages and compiled core into .venv/ (every other target does it by itself)
	@:

demo: setup ## the guided tour: a gateway, 1,000 devices, every kind of push, a table by clause
	@$(BIN)/heliograph tour

demo-cluster: setup ## a fleet: three NATS servers, three gateways, devices and providers at all; a node and a server killed
	@$(BIN)/heliograph tour K --devices 2

serve: setup ## run a gateway on loopback with an app called demo (store in var/)
	@$(BIN)/heliograph serve --app demo --set log.format=text

test: lint unit ## lint, types, floors and all fast tests

lint: setup ## ruff, mypy --strict, cython-lint, import-linter
	@echo "== ruff"; $(BIN)/ruff check . && $(BIN)/ruff format --check .
	@echo "== mypy --strict"; $(BIN)/mypy --no-error-summary
	@echo "== cython-lint"; $(BIN)/cython-lint ext $(wildcard load/*.pyx bench/floor/*.pyx)
	@echo "== import-linter"; $(BIN)/lint-imports > build/imports.log 2>&1 || { cat build/imports.log; exit 1; }

# tests wait more than they compute: three at once fill two cores. A file's tests stay together, for they share fixtures
WORKERS ?= 3

unit: setup ## the fast tests alone, in WORKERS processes
	@echo "== pytest"; $(PYTEST) -q -m "not slow and not chaos" -n $(WORKERS) --dist loadfile

test-asan: setup ## native tests under address and undefined-behaviour sanitizers
	@.ci/sanitize asan

test-tsan: setup ## native tests under the thread sanitizer
	@.ci/sanitize tsan

test-api: setup ## schemathesis against the API description, libraries that take long to start, times of refusals
	@$(PYTEST) -q -m slow tests/doors

test-operator: setup ## pagers and cards before others' programs: Osmocom, Kannel, Kamailio, SIPp, FreeRADIUS, freeDiameter, npm's, tshark
	@.ci/operator
	@$(PYTEST) -q -m slow tests/operator

test-im: setup ## connectors and IM aggregation before real servers: prosody, synapse, ngircd, dovecot, opensmtpd, a Bluesky PDS
	@.ci/im
	@$(PYTEST) -q -m slow tests/im

test-cluster: setup ## a fleet on three NATS servers: journals, leases, adoption, everything that takes longer
	@$(PYTEST) -q -m slow tests/cluster

test-chaos: setup ## kills, full disks, cut connections
	@$(PYTEST) -q -m chaos tests

FAULTS ?= 110

chaos-fleet: setup ## a fleet under FAULTS faults in random order, some ten minutes; table, build/chaos/fleet-SEED.json
	@CHAOS_FAULTS=$(FAULTS) $(PYTEST) -q -s -m chaos tests/chaos/test_fleet_faults.py -k fleet_loses

docs: setup ## write the generated pages in docs/ again
	@$(BIN)/heliograph docs
	@$(BIN)/python -m gateway.delivery docs/delivery.md
	@$(BIN)/python -m gateway.notifiers docs/notifiers.md

bench: setup ## the system figures P1 to P14, O1 to O3, K1 to K4 and D1 to D3 with floors and peers; some sixty minutes
	@$(BIN)/heliograph bench

bench-quick: setup ## the same in short runs
	@$(BIN)/heliograph bench --quick

bench-memory: setup ## P1: bytes of an idle device; fails past 256
	@$(BIN)/heliograph bench P1 --quick

USERS ?= 2000
SECONDS ?= 180
SCENARIO ?= day

load: setup ## locust: a day of USERS devices and providers in SECONDS (SCENARIO=day|storm|burst), page in build/load/
	@$(BIN)/python -m load.run --users $(USERS) --seconds $(SECONDS) --scenario $(SCENARIO)

load-short: setup ## the same with 200 users for 30 s; fails on any error
	@$(BIN)/python -m load.run --users 200 --seconds 30

bench-units: setup ## units beside what one would have taken instead; fails where a ratio got worse by 20 %
	@$(BIN)/python -m bench.units

bench-units-baseline: setup ## store the ratios of this machine
	@$(BIN)/python -m bench.units --renew

simulate: setup ## a fleet of up to a billion devices by calculation: tables, and docs/img/scale-*.svg anew
	@$(BIN)/python -m bench.simulator --pictures docs/img

wheel: setup ## sdist, wheel from it, import check in a clean environment
	@.ci/wheel

clean: ## remove everything built, keep .venv
	@rm -rf build dist *.egg-info gateway/_native/*.so gateway/_load/*.so ext/*.c .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
	@rm -rf .hypothesis .benchmarks .venv/native.stamp
	@find gateway tests bench load docs -name __pycache__ -prune -exec rm -rf {} +

distclean: clean ## remove .venv too
	@rm -rf .venv

# a checkout that was moved has an environment that points to the old place
ifeq ($(shell grep -sF '$(CURDIR)/.venv/bin/python' .venv/bin/pip),)
.venv/packages.stamp: again
.PHONY: again
endif

.venv/packages.stamp: pyproject.toml .ci/setup
	@.ci/setup packages

.venv/native.stamp: .venv/packages.stamp setup.py $(NATIVE)
	@.ci/setup native
