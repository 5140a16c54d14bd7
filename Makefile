# Every command sets itself up: `make test` and `make demo` work in a fresh clone.
VENV_PYTHON := .venv/bin/python
BIN := .venv/bin

.DEFAULT_GOAL := help
.PHONY: help setup packages demo test check unit integration e2e bench lock clean

help: ## show this list
	@awk -F ':.*## ' '/^[a-z0-9]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' Makefile

setup: ## make .venv with pinned packages (instant when nothing has changed)
	@scripts/setup.sh

demo: setup ## run the shop, deploy good and bad releases, kill things, count lost requests (ARGS=--help)
	$(VENV_PYTHON) examples/shop/demo.py $(ARGS)

packages:
	@scripts/test-packages.sh

test: check packages ## check, then every test, with coverage
	$(VENV_PYTHON) -m pytest tests/unit tests/integration tests/e2e --cov=gapless --cov-report=term

check: setup ## lint, format, types, layers
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

unit: setup ## unit tests: no sleep, no process
	$(VENV_PYTHON) -m pytest tests/unit $(ARGS)

integration: setup packages ## tests with real processes and sockets
	$(VENV_PYTHON) -m pytest tests/integration $(ARGS)

e2e: setup ## tests of the whole system behind a real Envoy
	$(VENV_PYTHON) -m pytest tests/e2e $(ARGS)

bench: setup ## start-up times against their limits
	$(VENV_PYTHON) benchmarks/startup.py

lock: setup ## pin dependencies anew (make lock UPGRADE=--upgrade for newer versions)
	scripts/lock.sh $(UPGRADE)

clean: ## remove everything that git does not know
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache .coverage* dist build
	rm -f src/gapless/gateway/envoy/descriptors.bin.gz
	find src tests examples benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +
