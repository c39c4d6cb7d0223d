# activity-core: `make` lists what can be made.
.DEFAULT_GOAL := help
SHELL := /bin/sh
PYTHON ?= python3
UV := .uv/bin/uv
BIN := .venv/bin
READY := .venv/.ready

.PHONY: help
help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.uv/.ready: requirements/bootstrap.txt
	$(PYTHON) -m venv .uv || { echo "python3 -m venv failed; on Debian: apt-get install python3-venv" >&2; exit 1; }
	.uv/bin/python -m pip install --quiet --require-hashes -r requirements/bootstrap.txt
	@touch $@

$(READY): .uv/.ready requirements/run.txt requirements/dev.txt pyproject.toml
	$(UV) venv --quiet --allow-existing --python $(PYTHON) .venv
	$(UV) pip sync --quiet --python $(BIN)/python --require-hashes requirements/run.txt requirements/dev.txt
	$(UV) pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable .
	@touch $@

.PHONY: install
install: $(READY) ## Install everything into .venv

.PHONY: run
run: $(READY) ## Make a fleet of git repos in .run/ and keep it in order
	@$(BIN)/python scripts/run_demo.py

.PHONY: test
test: check ## Check everything and run every test
	$(BIN)/pytest -n auto

# The state hub's own targets, as cron, hooks and people call them. REPO reaches the command as environment.
export REPO

.PHONY: fix-consistency
fix-consistency: ## Bring workplans and database together for one repo: make fix-consistency REPO=<slug>
	@test -n "$$REPO" || { echo "name the repo: make fix-consistency REPO=<slug>" >&2; exit 2; }
	@test -x $(BIN)/python || { echo "run make install first" >&2; exit 1; }
	@$(BIN)/python scripts/consistency_check.py --repo "$$REPO"

.PHONY: cleanup-stale
cleanup-stale: ## Cancel tasks that are still open in finished or archived workstreams
	@test -x $(BIN)/python || { echo "run make install first" >&2; exit 1; }
	@$(BIN)/python scripts/cleanup_stale_tasks.py

.PHONY: install-hooks
install-hooks: ## Install the post-commit hook into every registered repo
	@test -x $(BIN)/python || { echo "run make install first" >&2; exit 1; }
	@scripts/install_hooks.sh

.PHONY: check
check: $(READY) ## Lint, format, types and import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

.PHONY: fmt
fmt: $(READY) ## Format the code
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

.PHONY: bench
bench: $(READY) ## Measure; prints figures and ratios against floors of the same run
	$(BIN)/python bench/run_all.py

.PHONY: lock
lock: .uv/.ready ## Lock the requirements again, with hashes
	$(UV) pip compile --quiet --universal --generate-hashes --no-emit-index-url --no-header --python-version 3.11 pyproject.toml -o requirements/run.txt
	$(UV) pip compile --quiet --universal --generate-hashes --no-emit-index-url --no-header --python-version 3.11 -c requirements/run.txt requirements/dev.in -o requirements/dev.txt
	$(UV) pip compile --quiet --universal --generate-hashes --no-emit-index-url --no-header --python-version 3.11 requirements/bootstrap.in -o requirements/bootstrap.txt

.PHONY: clean
clean: ## Remove what was made
	rm -rf .venv .uv .run dist .mypy_cache .ruff_cache .hypothesis .pytest_cache
