# Every target bootstraps first; a second bootstrap takes no time. ARGS is handed on: make test ARGS="-k manifest"
.DEFAULT_GOAL := help
.PHONY: help bootstrap signoff signoff-live test lint bench certify stress stress-deploy misbehave lab lock clean

BIN := .venv/bin
ARGS ?=

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-13s %s\n", $$1, $$2 }' Makefile

bootstrap: ## make .venv from requirements.lock
	@bash scripts/bootstrap.sh

signoff: bootstrap ## simulate the demo market, run the notebooks on it, write the report
	$(BIN)/v13 signoff --demo $(ARGS)

signoff-live: bootstrap ## the same with a runner rehearsed on the way: every criterion judged (needs prometheus)
	$(BIN)/v13 signoff --demo --with-live $(ARGS)

lint: bootstrap ## style, types, storeys, notebooks without outputs
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	find notebooks -name '*.ipynb' -not -path '*/.ipynb_checkpoints/*' -exec $(BIN)/nbstripout --verify --keep-id {} +

test: lint ## lint, then all tests
	$(BIN)/pytest -q -n auto --dist loadfile --no-loadscope-reorder $(ARGS)

bench: bootstrap ## medians and ratios on this machine, against the named peers
	@$(BIN)/python -c 'import vectorbt' 2>/dev/null || bash scripts/bench_peers.sh
	$(BIN)/python -m tests.bench.bench $(ARGS)

certify: bootstrap ## 1,001 markets without an edge, 490 with one, whole pipeline (half an hour on two cores)
	$(BIN)/v13 noise --markets 143 --power $(ARGS)

stress: bootstrap ## 200 runners killed at random moments: no event lost, none doubled
	$(BIN)/python -m tests.stress.kills $(ARGS)

stress-deploy: bootstrap ## 300 processes killed in deploys and rollbacks, and each step with a full or read-only disk (hours; root)
	$(BIN)/python -m tests.stress.deploy_kills $(ARGS)

misbehave: bootstrap ## every alert seen to fire from a runner that really misbehaves (5 minutes, needs prometheus)
	$(BIN)/python -m tests.stress.misbehave $(ARGS)

lab: bootstrap ## the notebooks in JupyterLab
	$(BIN)/jupyter lab notebooks/ $(ARGS)

lock: ## compile requirements.lock anew (needs uv; ARGS=--upgrade for newer versions)
	uv pip compile pyproject.toml requirements.in --extra test --universal --python-version 3.11 --generate-hashes \
		--no-annotate --no-emit-index-url --no-emit-find-links --custom-compile-command "make lock" \
		--output-file requirements.lock --quiet $(ARGS)

clean: ## remove caches; .venv, runs/ and reports/ stay
	rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache .benchmarks .coverage
	find src tests notebooks -depth -type d \( -name __pycache__ -o -name .ipynb_checkpoints \) -exec rm -rf {} \;
