# Everything happens in a virtual environment of the repository's own; nothing is installed elsewhere.
VENV := .venv
BIN := $(VENV)/bin
PYTHON ?= python3.11
PYTHON := $(shell command -v $(PYTHON) 2>/dev/null || command -v python3)
PIP := $(BIN)/python -m pip --disable-pip-version-check

.PHONY: help up test interop-clients lint protos docs lock bench bench-llm bench-oip bench-gateway bench-balancing bench-peers chaos-gateway clean
help: ## Show the targets.
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1\t/'

up: $(VENV)/.installed-all ## Start the mesh here; Ctrl-C stops it.
	$(BIN)/meshserve up $(ARGS)

test: $(VENV)/.installed-dev ## Run every test.
	-$(BIN)/python -m tests.interop.environments
	$(BIN)/pytest $(ARGS)

interop-clients: $(VENV)/.installed-dev ## Install the foreign clients of tests/interop, under .interop; `make test` does.
	$(BIN)/python -m tests.interop.environments

lint: $(VENV)/.installed-dev ## Run every checker.
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/buf lint
	$(BIN)/buf format --diff --exit-code
	$(BIN)/python -m protos.breaking
	$(BIN)/python -m protos.generate --check
	$(BIN)/python -m docs.generate --check

protos: $(VENV)/.installed-dev ## Write the stubs anew from the protos.
	$(BIN)/python -m protos.generate

docs: $(VENV)/.installed-dev ## Write the generated pages of docs/ anew.
	$(BIN)/python -m docs.generate

lock: $(VENV)/.installed-dev ## Resolve constraints.txt anew from pyproject.toml.
	$(PIP) install --quiet pip-tools
	$(BIN)/pip-compile --quiet --upgrade --extra dev --strip-extras --no-annotate --no-header --no-emit-index-url \
		--no-emit-find-links --no-emit-trusted-host --output-file constraints.txt pyproject.toml
	sed -i '/^meshserve @/d; /^#/d; s/+cpu$$//' constraints.txt

bench: $(VENV)/.installed-dev ## Measure; prints tables, asserts nothing.
	$(BIN)/python -m bench.walk $(ARGS)

bench-llm: $(VENV)/.installed-dev ## Measure MeshServe beside the peers that are installed; prints tables.
	$(BIN)/python -m bench.llm $(ARGS)

bench-oip: $(VENV)/.installed-dev ## Measure a tensor request beside bare servers and peers; prints tables.
	$(BIN)/python -m bench.oip $(ARGS)

bench-gateway: $(VENV)/.installed-dev ## Measure what the gateway adds to a bare byte proxy; prints tables.
	$(BIN)/python -m bench.gateway $(ARGS)

bench-balancing: $(VENV)/.installed-dev ## Compare the balancing policies in a simulation; prints tables.
	$(BIN)/python -m bench.balancing $(ARGS)

bench-peers: $(VENV)/.installed-dev ## Install the peers of bench-llm and bench-oip under .bench, or those that ARGS names.
	$(BIN)/python -m bench.peers $(ARGS)

chaos-gateway: $(VENV)/.installed-dev ## Kill, freeze and drain replicas under load for 3 minutes; fails when a client notices.
	$(BIN)/python -m bench.chaos $(ARGS)

clean: ## Remove the environment, caches and the state of a local mesh.
	rm -rf $(VENV) .interop .meshserve build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Debian's Python comes without what `venv` needs, unless python3-venv is installed: then pip fetches virtualenv.
$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV) && \
		$(PYTHON) -m pip install --quiet --target build/virtualenv virtualenv && \
		PYTHONPATH=build/virtualenv $(PYTHON) -m virtualenv --quiet $(VENV); }

$(VENV)/.installed-all: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(PIP) install --quiet --constraint constraints.txt --editable '.[all]'
	touch $@

$(VENV)/.installed-dev: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(PIP) install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@ $(VENV)/.installed-all
