# Everything here needs only Python >= 3.11 and make.  The first use of a target sets up .venv with the locked versions
# of requirements/*.txt; stamp files in .venv make the next use start at once.

PYTHON ?= python3
VENV ?= .venv
ROWS ?=
ARGS ?=
# Each test runs on one kind of server, by turns, or with SERVERS=every on all of them.
SERVERS ?= turns
SHARED := $(if $(filter every,$(SERVERS)),--every-server)
# The tests wait more than they work: two processes keep two cores busy.  Some of them, chosen by ARGS, run in one.
JOBS ?= $(if $(ARGS),0,2)

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet --quiet
READY := $(VENV)/.ready-

# The tests start hundreds of interpreters: what these import is compiled once.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help demo test faults lint format bench docs dist lock clean
.DELETE_ON_ERROR:

help: ## Show this list.
	@echo "gridsync: make TARGET"
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  %-8s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

demo: $(READY)demo ## Watch a small energy market run on a private Redis (ARGS="--url redis://..." for another one).
	@$(BIN)/gridsync demo $(ARGS)

test: $(READY)test ## Run the tests (ARGS="tests/locks -k fence" for some; SERVERS=every: each on every server).
	@$(BIN)/python -m pytest -m "not faults" -n $(JOBS) --dist loadfile $(SHARED) $(ARGS)

faults: $(READY)test ## Kill, freeze and cut off servers, anew each time (ARGS="--seed N --minutes M").
	@$(BIN)/python -m pytest -m faults --every-server $(ARGS)

lint: $(READY)test $(READY)lint ## Check style (ruff), types (mypy, pyright) and house rules (tests/api).
	@failed=0; \
	$(BIN)/ruff check . || failed=1; \
	$(BIN)/ruff format --check . || failed=1; \
	$(BIN)/mypy || failed=1; \
	PATH="$(BIN):$$PATH" $(BIN)/basedpyright --verifytypes gridsync --ignoreexternal || failed=1; \
	$(BIN)/python -m pytest -q tests/api || failed=1; \
	exit $$failed

format: $(READY)lint ## Format the code and repair what ruff can repair.
	@$(BIN)/ruff check --fix-only .
	@$(BIN)/ruff format .

bench: $(READY)demo $(READY)bench ## Measure gridsync beside its peers (ROWS=slug,slug for some rows).
	@$(BIN)/python -m benchmarks $(if $(ROWS),--rows $(ROWS)) $(ARGS)

docs: $(READY)demo $(READY)docs ## Build the documentation into site/.
	@rm -rf .cache/site site && mkdir -p .cache/site && cp -r mkdocs.yml docs .cache/site/
	@$(BIN)/python docs/_pages.py .cache/site/docs && rm .cache/site/docs/_*.py
	@$(BIN)/zensical build --strict --config-file .cache/site/mkdocs.yml
	@mv .cache/site/site site
	@echo "docs: in site/; to read them, $(PYTHON) -m http.server --bind 127.0.0.1 --directory site"

dist: $(READY)test $(READY)dist ## Build what a release consists of into dist/: source, wheel, bill of materials.
	@$(BIN)/python .ci/dist.py dist

# All groups are resolved together first, so that they agree wherever they share a package.  No index is named in the
# result, and the hashes hold wherever the packages come from.
LOCK = $(BIN)/uv pip compile pyproject.toml --universal --python-version 3.11 --quiet --no-emit-index-url \
  --no-annotate --custom-compile-command "make lock"
LOCKED = $(LOCK) --generate-hashes --constraint .cache/lock.txt
ONLY = $(subst pyproject.toml,,$(LOCKED))

lock: $(READY)lock ## Refresh the locked versions in requirements/.
	@mkdir -p .cache
	@$(LOCK) --all-extras --group dev --group bench --upgrade --output-file .cache/lock.txt
	@$(LOCKED) --extra embedded --extra cli --group build --output-file requirements/demo.txt
	@$(LOCKED) --all-extras --group build --group test --output-file requirements/test.txt
	@for group in lint docs bench dist lock; do $(ONLY) --group $$group --output-file requirements/$$group.txt; done
	@git --no-pager diff --stat -- requirements

clean: ## Remove everything that the other targets made.
	@rm -rf $(VENV) .cache .hypothesis site dist

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "gridsync needs Python 3.11 or newer; '$(PYTHON)' is $$($(PYTHON) --version 2>&1)." \
	       "Say which one to use: make PYTHON=python3.12" >&2; exit 1; }
	@echo "setting up $(VENV), once"
	@$(PYTHON) -m venv --clear $(VENV) || { rm -rf $(VENV); exit 1; }

# The groups install one after the other, also under make -j: pip does not share.
$(READY)%: requirements/%.txt $(VENV)/bin/python pyproject.toml
	@echo "installing $<"
	@$(PIP) install --require-hashes -r $<
	@case $* in demo | test) $(PIP) install --no-deps --no-build-isolation --editable . ;; esac
	@touch $@

.NOTPARALLEL:
