# Everything runs in .venv, made on first use; PYTHON=python3.12 make test picks the Python it is made with.
SHELL := /bin/bash
.DEFAULT_GOAL := help
BIN := .venv/bin
# Another interpreter for `make bench-gpu`, such as that of a machine whose torch is already installed.
BENCH_PYTHON ?= $(BIN)/python
# Processes that share the tests, with one thread each: two processes of two threads would mostly wait for each other.
# Each needs up to 4 GB.
WORKERS ?= 2
# Triton kernels on a CPU. It fails where triton is missing, because tests that are skipped would say nothing.
INTERPRETED := LACONIC_KERNELS=triton TRITON_INTERPRET=1 OMP_NUM_THREADS=1 $(BIN)/pytest -n $(WORKERS) --dist load \
	tests/kernels tests/rollout/engines/test_cascade.py
PUBLIC := -m laconic -m laconic.errors -p laconic.rewards -p laconic.rollout -p laconic.train -p laconic.eval -m laconic.cli

.PHONY: help run test lint types pytest docs-check soak claims claims-fresh bench-gpu clean venv-run venv-test

help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 16

run: venv-run ## the demo: base model -> RL -> evaluation of both -> report in runs/demo/
	$(BIN)/laconic demo

test: venv-test ## lint, types and all tests
	@$(MAKE) --no-print-directory lint
	@$(MAKE) --no-print-directory pytest

lint: venv-test ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	@$(MAKE) --no-print-directory types

# The clone's folder may have any name; the link tells the type checker that it is `laconic`.
types: venv-test
	@mkdir -p .typecheck && ln -sfn .. .typecheck/laconic
	$(BIN)/mypy $(PUBLIC)

pytest: venv-test
	OMP_NUM_THREADS=1 $(BIN)/pytest -n $(WORKERS) --dist loadgroup --no-loadscope-reorder
	$(INTERPRETED) -m "triton and not long"

docs-check: venv-test ## links and file names in the documentation
	$(BIN)/pytest tests/test_docs.py

soak: venv-test ## ten kills of a run instead of three, 10,000 hostile answers instead of 1,000, every kernel compiled
	LACONIC_SOAK_KILLS=10 LACONIC_SOAK_INPUTS=10000 LACONIC_SOAK_KERNELS=all $(BIN)/pytest -m soak -rP
	$(INTERPRETED) -m triton

claims: venv-test ## do the figures in benchmarks/results hold?
	$(BIN)/python benchmarks/check_claims.py

claims-fresh: venv-test ## measure every figure again, then check
	$(BIN)/python benchmarks/check_claims.py --fresh

# The link stands in for an installation, so that BENCH_PYTHON needs the dependencies only.
bench-gpu: ## GPU tests and measurements, in one call of under nine minutes
	@if ! nvidia-smi -L 2>/dev/null | grep -q GPU; then echo "no GPU: nothing measured"; exit 0; fi; set -e; \
	if [ "$(BENCH_PYTHON)" = "$(BIN)/python" ]; then bash install/venv.sh test; fi; \
	mkdir -p .typecheck; ln -sfn .. .typecheck/laconic; export PYTHONPATH="$(CURDIR)/.typecheck$${PYTHONPATH:+:$$PYTHONPATH}"; \
	$(BENCH_PYTHON) benchmarks/gpu.py

venv-run:
	@bash install/venv.sh run

venv-test:
	@bash install/venv.sh test

clean: ## remove what was built and installed; runs/ stays
	rm -rf .venv .typecheck build dist *.egg-info .pytest_cache .hypothesis .mypy_cache .ruff_cache
	find . -name __pycache__ -type d -not -path './.git/*' -prune -exec rm -rf {} +
