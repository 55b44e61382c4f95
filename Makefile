# Meshlog. `make demo` and `make test` do all their set-up; nothing but Python 3.11+ is needed.
SHELL := /bin/sh
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed

.PHONY: install demo up down test test-long docs-run simulate faults health attack mutants fuzz-edge fuzz-ca lint format lock
.PHONY: chart clean help
.PHONY: bench-statuses compare-edge edge-clients bench bench-ca bench-compile bench-edge bench-history bench-ingest bench-inject

help: ## what can be made
	@grep -hE '^[a-z][a-z-]*:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

install: $(STAMP) ## make .venv with everything in it (all others do this first)

$(STAMP): pyproject.toml requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "Meshlog needs Python 3.11 or newer, and $(PYTHON) is " + sys.version.split()[0] + ": make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -P -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	$(BIN)/python -P -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $(STAMP)

demo: install ## run the bookstore on a real mesh and check it, about a minute
	@$(BIN)/meshlog demo $(ARGS)

up: install ## start the embedded mesh and keep it running
	@$(BIN)/meshlog up $(ARGS)

down: install ## stop it; nothing is left behind
	@$(BIN)/meshlog down

test: install ## all tests: real NATS, real Envoys, the devcluster; those that measure time or memory come last, alone
	@$(BIN)/python -P -m pytest -n 2 --dist loadfile --no-loadscope-reorder -m 'not long and not alone' $(ARGS) || [ $$? -eq 5 ]
	@$(BIN)/python -P -m pytest -m 'alone and not long' $(ARGS) || [ $$? -eq 5 ]

test-long: install ## the long forms: thousands of random meshes, long faults
	@$(BIN)/python -P -m pytest -m long --timeout 3600 $(ARGS)

docs-run: install ## run every block of README and docs that can run, on one embedded mesh, and compare what it prints
	@$(BIN)/python -P -m pytest tests/docs -m "long or not long" $(ARGS)

lint: install ## ruff, pyright strict, import contracts
	@$(BIN)/python tools/xds_stubs.py
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/pyright
	@$(BIN)/lint-imports

format: install ## let ruff format and fix what it can
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

bench: install ## every benchmark, as tables; JSON=file writes one object
	@$(BIN)/python -P -m benchmarks $(ARGS)

lock: ## pin all dependencies with hashes again
	uv pip compile pyproject.toml --extra dev --universal --python-version 3.11 --generate-hashes \
	    --no-emit-index-url --no-header --quiet --upgrade -o requirements.lock

clean: ## remove what the others made
	rm -rf .venv .stubs .meshlog build dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

bench-edge: install ## pushes, latency, reconnects and memory of an edge; ARGS=full up to 10,000 proxies
	@$(BIN)/python -P -m benchmarks edge $(ARGS)

bench-ingest: install ## Kubernetes API to log: initial list, rate, latency, rolling restart
	@$(BIN)/python -P -m benchmarks ingest

bench-statuses: install ## statuses of 2,000 changing policy objects: their rate at the API server, and when they are right
	@$(BIN)/python -P -m benchmarks statuses

bench-inject: install ## sidecar injections a second, pure and over HTTPS
	@$(BIN)/python -P -m benchmarks inject

bench-ca: install ## certificates per second and core, through the log, 10,000 workloads at once
	@$(BIN)/python -P -m benchmarks ca

fuzz-edge: install ## fuzz what an edge reads, SECONDS=60; needs atheris
	@$(BIN)/python -P -m tests.fuzz.edge_requests -max_total_time=$(or $(SECONDS),60)

fuzz-ca: install ## fuzz what the CA and its requesters read, SECONDS=60; needs atheris
	@$(BIN)/python -P -m tests.fuzz.ca_requests -max_total_time=$(or $(SECONDS),60)

bench-compile: install ## compile 100 and 1,000 services from scratch, and one change of each kind; ARGS=full adds 10,000
	@$(BIN)/python -P -m benchmarks compile $(ARGS)

bench-history: install ## past versions, why, diff, plan and replay over a long log; EVENTS=n, default 1,000,000; LOG=file keeps it
	@EVENTS=$(or $(EVENTS),1000000) LOG=$(LOG) $(BIN)/python -P -m benchmarks history

chart: install ## write the Helm chart's generated parts again (after a change of deploy/install)
	@PYTHONPATH=. $(BIN)/python tools/chart.py

simulate: install ## the whole control plane under faults on a simulated clock, 10,000 seeds; SEEDS=0:100 for fewer, JSON=file
	@$(BIN)/python -P -m tests.simulation --seeds $(or $(SEEDS),0:10000)

faults: install ## break a highly available mesh in every way under traffic, 10 minutes; ROWS=kill for some, JSON=file
	@$(BIN)/python -P -m tests.faults $(ROWS)

health: install ## provoke each finding of `status` on a real mesh and see it named within 5 s, 5 minutes; ROWS=pin for some
	@$(BIN)/python -P -m tests.health $(ROWS)

attack: install ## attack a mesh in every way that strangers and tenants have, under traffic; ROWS=edge for some, JSON=file
	@$(BIN)/python -P -m tests.attacks $(ROWS)

mutants: install ## make 59 mistakes in the compiler, one at a time, and see each noticed; minutes
	@$(BIN)/python -P -m tests.oracle.mutants

compare-edge: install ## the edge's own server against gRPC's: floods, clients, h2spec, load, 6 minutes; ARGS="floods ping", JSON=file
	@$(BIN)/python -P -m benchmarks.compare_edge $(ARGS)

edge-clients: ## build h2spec and the clients in Go, Java and Node that edges are tested with, where these languages are
	@sh tools/edge_clients.sh
