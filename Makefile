# Every command sets itself up: `make test` and `make demo` work in a fresh clone.
VENV_PYTHON := .venv/bin/python
BIN := .venv/bin

.DEFAULT_GOAL := help
.PHONY: help setup packages demo test coverage check unit thorough integration conformance e2e soak bench peers lock clean

help: ## show this list
	@awk -F ':.*## ' '/^[a-z0-9]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' Makefile

setup: ## make .venv with pinned packages (instant when nothing has changed)
	@scripts/setup.sh

demo: setup ## run the shop, deploy good and bad releases, kill things, count lost requests (ARGS=--help)
	$(VENV_PYTHON) examples/shop/demo.py $(ARGS)

packages:
	@scripts/test-packages.sh
	@scripts/npm-packages.sh

# Most of them wait for processes, so that three at a time fit on two cores; those of a file share what it starts. A few
# that fail in that crowd are tried once more alone, in the open; those that count lost requests are not.
test: check packages ## check, then every test
	$(VENV_PYTHON) -m pytest tests/unit tests/integration tests/conformance tests/e2e -n 3 --dist loadscope \
	  || $(VENV_PYTHON) -m pytest tests --last-failed --last-failed-no-failures none --alone

coverage: setup packages ## every test, one after the other, and what of the code they ran (half an hour)
	$(VENV_PYTHON) -m pytest tests/unit tests/integration tests/conformance tests/e2e --cov=gapless --cov-report=term

check: setup ## lint, format, types, layers
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

unit: setup ## unit tests: no sleep, no process
	$(VENV_PYTHON) -m pytest tests/unit -n 2 $(ARGS)

thorough: setup ## unit tests with 1,000 examples of each property (some minutes)
	HYPOTHESIS_PROFILE=thorough nice -n 19 $(VENV_PYTHON) -m pytest tests/unit -n 2 --timeout 1800 $(ARGS)

integration: setup packages ## tests with real processes and sockets
	$(VENV_PYTHON) -m pytest tests/integration $(ARGS)

conformance: setup ## other people's tests of the protocols that we speak
	$(VENV_PYTHON) -m pytest tests/conformance $(ARGS)

e2e: setup packages ## tests of the whole system behind a real Envoy
	$(VENV_PYTHON) -m pytest tests/e2e $(ARGS)

soak: setup packages ## 105 deploys and 200,000 requests, with things killed and restarted meanwhile (ten minutes)
	SOAK_DEPLOYS=105 SOAK_RATE=480 $(VENV_PYTHON) -m pytest tests/e2e/test_soak.py $(ARGS)

bench: setup ## start-up times against their limits
	$(VENV_PYTHON) benchmarks/startup.py

peers: setup ## install what the benchmarks compare us with
	$(VENV_PYTHON) -m pip install -qq --require-hashes -r requirements/bench.txt

lock: setup ## pin dependencies anew (make lock UPGRADE=--upgrade for newer versions)
	scripts/lock.sh $(UPGRADE)

clean: ## remove everything that git does not know
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache .coverage* dist build
	rm -f src/gapless/gateway/envoy/descriptors.bin.gz
	find src tests examples benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +
