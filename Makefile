# Needs Python 3.11 or newer and make. Everything else goes into .venv.
PYTHON ?= python3
PORT ?= 3000

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
DEV := demo,aws,notify,postgres,dev

# No tool reports to its maker from here.
export DAGSTER_DISABLE_TELEMETRY := 1
export MLFLOW_DISABLE_TELEMETRY := true
export GX_ANALYTICS_ENABLED := false

# The demo's instance. Absolute, because Dagster refuses a relative one.
demo ui: export DAGSTER_HOME := $(CURDIR)/.demo/dagster
demo ui: export MLCT_HOME := $(CURDIR)/.demo/mlct

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo ui test check lock clean

help: ## show these targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-6s %s\n", $$1, $$2}' Makefile

demo: $(VENV)/demo.stamp .demo/dagster/dagster.yaml ## play a year of flights through the loop
	@$(BIN)/python demo.py

ui: $(VENV)/demo.stamp .demo/dagster/dagster.yaml ## open Dagster on the demo's instance (PORT=3000)
	@test -d .demo/mlct || echo "The demo has not run yet, so there is little to see: make demo"
	@echo "Look at http://127.0.0.1:$(PORT)/locations/mlct/asset-groups/flight_delay/lineage"
	@echo "and stop with Ctrl-C"
	@$(BIN)/dagster dev --host 127.0.0.1 --port $(PORT)

test: $(VENV)/dev.stamp ## run the tests
	@$(BIN)/python -m pytest

check: $(VENV)/dev.stamp ## all that CI runs: lint, format, types, tests
	@echo "ruff check" && $(BIN)/ruff check --quiet .
	@echo "ruff format --check" && $(BIN)/ruff format --check --quiet .
	@echo "mypy" && $(BIN)/mypy
	@echo "pytest" && $(BIN)/python -m pytest

lock: $(BIN)/python ## write requirements.lock anew from the floors in pyproject.toml
	@echo "Resolving mlct[$(DEV)] ..."
	@$(PIP) install --dry-run --ignore-installed --report $(VENV)/resolved.json -e '.[$(DEV)]'
	@$(BIN)/python -c "$$print_lock" $(VENV)/resolved.json > $(VENV)/requirements.lock
	@mv $(VENV)/requirements.lock requirements.lock
	@echo "requirements.lock names $$(wc -l < requirements.lock) packages"

clean: ## remove .venv, the demo's instance and what tools left behind
	@rm -rf $(VENV) .demo .hypothesis .mypy_cache .ruff_cache build dist
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The second run is quick: a stamp is newer than the two files that decide what is installed.
$(VENV)/demo.stamp: pyproject.toml requirements.lock | $(BIN)/python
	@$(call install,demo)

$(VENV)/dev.stamp: pyproject.toml requirements.lock | $(BIN)/python
	@$(call install,$(DEV))

define install
echo "Installing mlct[$(1)] into $(VENV) (minutes the first time) ..."
$(PIP) install -c requirements.lock -e '.[$(1)]'
touch $@
endef

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit("mlct needs Python 3.11 or newer: make PYTHON=python3.x" if sys.version_info < (3, 11) else 0)'
	@echo "Making a virtual environment in $(VENV) ..."
	@$(PYTHON) -m venv $(VENV)

.demo/dagster/dagster.yaml: dagster.yaml
	@mkdir -p $(@D)
	@cp dagster.yaml $@

define print_lock
import json, re, sys

for found in sorted(
    re.sub(r"[-_.]+", "-", item["metadata"]["name"]).lower() + "==" + item["metadata"]["version"]
    for item in json.load(open(sys.argv[1]))["install"]
    if not item["is_direct"]
):
    print(found)
endef
export print_lock
