# Needs python3 (3.11 or newer), pip, git and make. Everything else is installed into .venv.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

# make rehearsal KEEP=box HOLD=30 REPO=URL TREE=DIR FAIL=harbor-prewarm SCENARIO=NAME WORKERS=2
REHEARSAL := $(if $(KEEP),--keep "$(KEEP)") $(if $(HOLD),--hold "$(HOLD)") $(if $(REPO),--repo "$(REPO)") \
	$(if $(TREE),--tree "$(TREE)") $(if $(FAIL),--fail "$(FAIL)") $(if $(SCENARIO),--scenario "$(SCENARIO)") \
	$(if $(WORKERS),--workers "$(WORKERS)")

# Two at a time leave two cores idle for two fifths of the time: whole runs wait for each other's clocks.
JOBS := 3

.PHONY: help install rehearsal test sweep check format schemas bench bench-long bench-kills every-grant image lock clean

help:
	@echo "make install     Python packages into .venv, each checked by its hash"
	@echo "make rehearsal   a whole cutover on a Sovereign in a box (KEEP=DIR keeps it)"
	@echo "make test        all tests (ARGS=... goes to pytest)"
	@echo "make sweep       what takes too long for every day: each await point, each grant, each phase"
	@echo "make check       format, lint, types, import contracts, stale schemas"
	@echo "make schemas     write schemas/json and the AsyncAPI document again"
	@echo "make every-grant each grant of the chart taken away by itself: docs/evidence/every-grant; under an hour"
	@echo "make bench       hop, replay and a thousand readers, one JSON object each"
	@echo "make bench-long  mirror, copy (about 1.1 GB, beside skopeo) and idle cost; some minutes"
	@echo "make bench-kills everything killed at each moment of the proof, in all combinations; some twenty minutes"
	@echo "make image       the container image, with git and nft (BASE=, ARCH=, IMAGE=) and its SBOM"
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

# Files run side by side; what compares times runs by itself afterwards. Exit code 5: ARGS chose none of these.
test: install
	@$(BIN)/python -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder -m "not slow and not alone" $(ARGS) || test $$? -eq 5
	@$(BIN)/python -m pytest -m "alone and not slow" $(ARGS) || test $$? -eq 5

sweep: install
	@$(BIN)/python -m pytest -n $(JOBS) --dist loadfile -m "slow and not alone" --timeout 3600 $(ARGS) || test $$? -eq 5
	@$(BIN)/python -m pytest -m "slow and alone" $(ARGS) || test $$? -eq 5

check: install
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --config .importlinter
	$(BIN)/python -m events.documents --check
	$(BIN)/python -m workers.entrypoints.values_schema --check

format: install
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

schemas: install
	$(BIN)/python -m events.documents
	$(BIN)/python -m workers.entrypoints.values_schema

bench: install
	@$(BIN)/python benchmarks/hop.py --json
	@$(BIN)/python benchmarks/replay.py --json
	@$(BIN)/python benchmarks/readers.py --json

bench-long: install
	@$(BIN)/python benchmarks/mirror.py --json
	@$(BIN)/python benchmarks/prewarm.py --json
	@$(BIN)/python benchmarks/idle.py --json

bench-kills: install
	@$(BIN)/python benchmarks/kills.py --json

# What travels is checked by its hash before the engine sees it; ARCH=aarch64 for the other machines.
IMAGE := catalyst-cutover:local
BASE := debian:bookworm-slim
ARCH := x86_64
PLATFORMS := $(foreach tag,manylinux_2_28 manylinux_2_17 manylinux2014,--platform $(tag)_$(ARCH))

# nkeys is published as source only; it is pure Python.
build/packages: requirements.image.lock
	@rm -rf $@ && mkdir -p build
	@$(PYTHON) -m pip --python $(BIN)/python install --quiet --disable-pip-version-check --require-hashes --no-deps \
	  --only-binary=:all: --no-binary=nkeys --no-build-isolation --python-version 3.11 --implementation cp $(PLATFORMS) \
	  --target $@ -r requirements.image.lock
	@rm -rf $@/bin && touch $@

# Needs no network. The sandbox is for rehearsals and stays outside.
build/own: pyproject.toml $(shell find schemas events workers -type f -not -name '*.pyc')
	@rm -rf $@ build/lib && mkdir -p build
	@$(PYTHON) -m pip --python $(BIN)/python install --quiet --disable-pip-version-check --no-deps --no-build-isolation \
	  --no-index --target $@ .
	@rm -rf $@/sandbox $@/bin build/lib build/bdist* && touch $@

every-grant: install
	@$(BIN)/python benchmarks/every_grant.py

image: install build/packages build/own
	@docker build --quiet --tag $(IMAGE) --build-arg BASE=$(BASE) --file image/Dockerfile .
	@$(BIN)/python image/sbom.py $(IMAGE) > build/sbom.cdx.json
	@echo "$(IMAGE), and what it holds: build/sbom.cdx.json"

# The cover lines stay ours; no index address is ever written.
lock: install
	@{ echo "# Everything that make install puts into .venv: runtime, sandbox and tools, each file pinned by its hash."; \
	   echo "# Made by: make lock"; \
	   $(BIN)/pip-compile --quiet --output-file - --upgrade --generate-hashes --allow-unsafe --all-extras --all-build-deps \
	     --strip-extras --no-header --no-emit-index-url --no-emit-find-links --no-emit-trusted-host pyproject.toml; \
	} > requirements.lock.new && mv requirements.lock.new requirements.lock
	@sed -n 's/^\([a-z0-9._-]*==[^ ]*\).*/\1/p' requirements.lock > pins.new
	@{ echo "# What the image holds: the runtime's packages alone, at the versions of requirements.lock."; \
	   echo "# Made by: make lock"; \
	   $(BIN)/pip-compile --quiet --output-file - --generate-hashes --allow-unsafe --strip-extras --constraint pins.new \
	     --no-header --no-annotate --no-emit-index-url --no-emit-find-links --no-emit-trusted-host pyproject.toml; \
	} > requirements.image.lock.new && mv requirements.image.lock.new requirements.image.lock && rm pins.new

clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
