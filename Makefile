# Needs python3 (3.11 or newer), pip, git and make. Everything else is installed into .venv.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

# make rehearsal KEEP=box HOLD=30 REPO=URL TREE=DIR FAIL=harbor-prewarm SCENARIO=NAME WORKERS=2
REHEARSAL := $(if $(KEEP),--keep "$(KEEP)") $(if $(HOLD),--hold "$(HOLD)") $(if $(REPO),--repo "$(REPO)") \
	$(if $(TREE),--tree "$(TREE)") $(if $(FAIL),--fail "$(FAIL)") $(if $(SCENARIO),--scenario "$(SCENARIO)") \
	$(if $(WORKERS),--workers "$(WORKERS)")

.PHONY: help install rehearsal test check format schemas bench bench-long lock clean

help:
	@echo "make install     Python packages into .venv, each checked by its hash"
	@echo "make rehearsal   a whole cutover on a Sovereign in a box (KEEP=DIR keeps it)"
	@echo "make test        all tests (ARGS=... goes to pytest)"
	@echo "make check       format, lint, types, import contracts, stale schemas"
	@echo "make schemas     write schemas/json and the AsyncAPI document again"
	@echo "make bench       hop and replay, one JSON object each"
	@echo "make bench-long  mirror, copy (about 1.1 GB, beside skopeo) and idle cost; some minutes"
	@echo "make lock        pin the newest versions that pyproject.toml allows"

install: $(STAMP)

# The outer pip fills the environment, so a python3 without ensurepip (Debian's) is enough.
$(STAMP): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("Python 3.11 or newer is needed: make PYTHON=python3.11 ...")'
	@test -x $(BIN)/python || $(PYTHON) -m venv --without-pip $(VENV)
	@echo "Installing into $(VENV) (about a minute) ..."
	@$(PYTHON) -m pip --python $(BIN)/python install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	@$(PYTHON) -m pip --python $(BIN)/python install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

rehearsal: install
	@$(BIN)/cutover rehearse $(strip $(REHEARSAL))

test: install
	@$(BIN)/python -m pytest $(ARGS)

check: install
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --config .importlinter
	$(BIN)/python -m events.documents --check

format: install
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

schemas: install
	$(BIN)/python -m events.documents

bench: install
	@$(BIN)/python benchmarks/hop.py --json
	@$(BIN)/python benchmarks/replay.py --json

bench-long: install
	@$(BIN)/python benchmarks/mirror.py --json
	@$(BIN)/python benchmarks/prewarm.py --json
	@$(BIN)/python benchmarks/idle.py --json

# The cover lines stay ours; no index address is ever written.
lock: install
	@{ echo "# Everything that make install puts into .venv: runtime, sandbox and tools, each file pinned by its hash."; \
	   echo "# Made by: make lock"; \
	   $(BIN)/pip-compile --quiet --output-file - --upgrade --generate-hashes --allow-unsafe --all-extras --all-build-deps \
	     --strip-extras --no-header --no-emit-index-url --no-emit-find-links --no-emit-trusted-host pyproject.toml; \
	} > requirements.lock.new && mv requirements.lock.new requirements.lock

clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
