# An active virtual environment is used as it is; without one, .venv is made and filled.

.DEFAULT_GOAL := help
.PHONY: help demo test test-long check bench test-devices test-boards test-gpu clean compiler

PYTHON ?= $(shell for name in python3.11 python3.12 python3.13 python3; do command -v $$name && break; done)

ifdef VIRTUAL_ENV
BIN := $(VIRTUAL_ENV)/bin
DEV :=
else
BIN := .venv/bin
DEV := .venv/.dev
endif

help:  ## List what can be made
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | while IFS="$$(printf '\t')" read -r name text; \
		do printf '  make %-13s %s\n' "$$name" "$$text"; done

demo: compiler .venv/.installed  ## Set up .venv, then find a front of pruned networks on this computer
	.venv/bin/hwprune quickstart

# What failed is run once more: many tests hang on clocks, links and processes of a computer that has other work, too.
# A fault of ours fails again; both runs are in the output.
define pytest
$(BIN)/python -m pytest $(1) || { echo "== what failed, once more"; $(BIN)/python -m pytest --last-failed $(1); }
endef

# What measures comes last and alone: two tests at a time would disturb each other's numbers.
test: compiler $(DEV)  ## Run the tests, but for those of the next two targets
	$(call pytest,-n 2 --dist loadfile -m "not measures and not boards and not long")
	$(call pytest,-m "measures and not boards and not long")

test-long: compiler $(DEV)  ## Run the tests that search and profile for minutes
	$(call pytest,-m "long and not boards")

check: $(DEV)  ## Lint, format, types, package walls
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: compiler $(DEV)  ## Run every benchmark in its quick form
	@found=0; for script in benchmarks/*.py; do \
		[ -e "$$script" ] || continue; \
		found=1; echo "== $$script"; $(BIN)/python "$$script" --quick || exit 1; \
	done; [ $$found = 1 ] || echo "there are no benchmarks yet"

# Emulated boards are kept in $$HWPRUNE_BOARDS (hwprune-boards in the temp folder); building them takes a minute, once.
test-devices: compiler $(DEV)  ## Run the tests against SSH servers, network namespaces and emulated arm64 boards
	@tests/integration/devices/install.sh || echo "not all could be installed: tests that need it are skipped"
	$(call pytest,-n 2 --dist loadfile -m boards tests/unit tests/integration/devices/test_board_faults.py tests/integration/devices/test_board_latency.py)
	$(call pytest,-m boards tests/integration --ignore-glob '*/test_board_*')

test-boards: compiler $(DEV)  ## Profile and search two emulated boards whose time is counted in instructions
	@tests/integration/devices/install.sh || echo "not all could be installed: tests that need it are skipped"
	$(call pytest,tests/integration/devices/test_board_fleet.py)

test-gpu: compiler $(DEV)  ## Run the tests that need a CUDA device
	@if reason=$$($(BIN)/python -c 'import torch, sys; sys.exit(None if torch.cuda.is_available() else "torch %s finds no CUDA device" % torch.__version__)' 2>&1); \
	then $(BIN)/python -m pytest -m gpu || [ $$? = 5 ]; \
	else echo "skipped: $$reason"; fi

clean:  ## Remove .venv and what tools have cached; runs/ stays
	rm -rf .venv build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache

compiler:
	@command -v "$${CC:-cc}" >/dev/null || command -v gcc >/dev/null || command -v clang >/dev/null || \
		{ echo "error: no C compiler found: install one (Debian and Ubuntu: apt install gcc libc6-dev), or set CC" >&2; exit 1; }

# Installed again only when pyproject.toml has changed.
.venv/.installed: pyproject.toml | .venv/bin/pip
	.venv/bin/pip install --disable-pip-version-check --editable .
	@touch $@

.venv/.dev: pyproject.toml | .venv/bin/pip
	.venv/bin/pip install --disable-pip-version-check --editable '.[dev]'
	@touch $@ .venv/.installed

.venv/bin/pip:
	@[ -n "$(PYTHON)" ] && $(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' || \
		{ echo "error: Python 3.11 to 3.13 is needed: install it, or name it with make PYTHON=/path/to/python3.11" >&2; exit 1; }
	@$(PYTHON) -m venv .venv || \
		{ rm -rf .venv; echo "error: $(PYTHON) cannot make a virtual environment: install its venv module (Debian: python3-venv)" >&2; exit 1; }
