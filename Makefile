# Every target sets up what it needs by itself, is safe to run again, and uses caches on the second run.
# .state/ holds everything that is made but the Python environment, which is .venv/.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

PYTHON := .venv/bin/python
# Nodes of the local cluster: 1 or 2.
NODES ?= 1

# A preflight must have had its say before anything else begins.
.NOTPARALLEL:

.PHONY: help
help: ## Show the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  %-16s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

.PHONY: venv
venv: ## The Python environment, from the hash-locked files in constraints/
	@hack/preflight.sh venv
	@hack/bootstrap.sh

# --- The local cluster (docs/tasks/local-cluster.md) ------------------------------------------------------------------

.PHONY: preflight
preflight: ## Whether this machine can hold the local cluster; changes nothing
	@NODES=$(NODES) hack/preflight.sh

.PHONY: preflight-build
preflight-build:
	@hack/preflight.sh build

.PHONY: cluster-build
cluster-build: preflight-build venv ## Bring and build what the cluster is made of (about 15 min the first time)
	@$(PYTHON) -m hack.cluster build

.PHONY: cluster-up
cluster-up: preflight venv ## Start the cluster; NODES=2 for two nodes
	@$(PYTHON) -m hack.cluster up --nodes $(NODES)

.PHONY: cluster-down
cluster-down: ## End the cluster and everything of it, but for logs and caches
	@if [[ -x $(PYTHON) ]]; then $(PYTHON) -m hack.cluster down; else echo "no .venv, therefore no cluster"; fi

.PHONY: cluster-status
cluster-status: venv ## Components, nodes, listeners, and where kubeconfig and logs are
	@$(PYTHON) -m hack.cluster status

# --- Development ------------------------------------------------------------------------------------------------------

.PHONY: lock
lock: venv ## Resolve pyproject.toml into constraints/*.txt (hashes, no download addresses)
	@hack/lock.sh

.PHONY: lint
lint: venv ## ruff, mypy, import-linter, and whether generated files are up to date
	@.venv/bin/ruff check --quiet .
	@.venv/bin/ruff format --quiet --check .
	@.venv/bin/mypy --no-error-summary
	@.venv/bin/lint-imports
	@.venv/bin/internvl crd --check

.PHONY: unit
unit: venv ## The pure tests alone: seconds, and neither root nor Go
	@.venv/bin/pytest -m unit

.PHONY: test
test: preflight venv lint cluster-build ## Everything: unit, integration (real API server, real S3), e2e (the real cluster)
	@.venv/bin/pytest --durations=15

# `make test` runs a sample of each.
SOAK_ROUNDS ?= 10
SOAK_KILLS ?= 50
SOAK_WEATHER ?= 504

.PHONY: soak
soak: preflight venv cluster-build soak-checkpoints ## The long repetitions: e2e runs with kills, thousands of random worlds, checkpoints
	@INTERNVL_SOAK_ROUNDS=$(SOAK_ROUNDS) INTERNVL_EXAMPLES=2000 .venv/bin/pytest tests/property tests/e2e/test_runs.py --timeout=7200

.PHONY: soak-checkpoints
soak-checkpoints: venv ## SOAK_KILLS kills of a TP2 x PP2 stage at random moments, SOAK_WEATHER runs against a faulty store
	@INTERNVL_KILLS=$(SOAK_KILLS) INTERNVL_WEATHER=$(SOAK_WEATHER) .venv/bin/pytest -s --timeout=14400 \
	  tests/integration/trainer/test_killed_at_any_moment.py tests/integration/checkpoint/test_bad_weather.py

# --- The demo (docs/tasks/demo.md) ------------------------------------------------------------------------------------

# local: start a cluster on this machine. current: use the cluster of the current kubeconfig.
CLUSTER ?= local

.PHONY: preflight-demo-current
preflight-demo-current:
	@hack/preflight.sh demo-current

.PHONY: demo
demo: $(if $(filter local,$(CLUSTER)),preflight,preflight-demo-current) venv ## Train two tiny InternVLs in chained stages and judge them; CLUSTER=current for yours
	@$(PYTHON) -m hack.demo --cluster $(CLUSTER)
