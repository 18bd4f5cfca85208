# Each target works alone on a fresh clone with Python 3.11 or 3.12, pip and make. Nothing is installed outside of it.
# Stamp files remember what was installed from what, so that a warm run installs nothing.

PYTHON ?= python3
INPUT ?=
SECONDS ?= 600

RUN := .venv/installed
DEV := .venv/installed-dev
MINT := .venv-mint/tradepost-mint-venv
FUZZ := .venv/installed-fuzz
NODE_MODULES := tests/interop/node_modules/.installed

PIP := $(PYTHON) -m pip --python .venv/bin/python --disable-pip-version-check install --quiet --quiet
# Two installations at a time: downloads and unpacking overlap.
PARALLEL := $(MAKE) --no-print-directory --silent --jobs=2

# Runs a command and says how long it took: $(call timed,name,command).
timed = begun=$$(date +%s); $(2); code=$$?; echo "== $(1): $$(( $$(date +%s) - begun )) s"; exit $$code
BEGUN := $(shell date +%s)

# One process more than there are cores: most tests wait for others. Who has nothing left takes tests from the others.
WORKERS := $(shell expr $$(getconf _NPROCESSORS_ONLN) + 1)
# Files of tests are kept in memory where there is room: every commit waits for the disk, which takes half the time else.
SCRATCH := $(shell df -Pk /dev/shm 2>/dev/null | awk '$$NF == "/dev/shm" && $$4 > 2000000 { print "TMPDIR=/dev/shm" }')
# Hundreds of processes are started: what was compiled once is kept, whatever this machine is used to.
QUICKLY := PYTHONDONTWRITEBYTECODE= $(SCRATCH)
MEASURED := wallet identity dvm

.PHONY: help demo test check bench fuzz soak clean

help:
	@echo "make demo [INPUT=path]   the whole main job on this machine, with real parts"
	@echo "make test                the whole suite, with coverage"
	@echo "make check               lint, format, types, import contracts"
	@echo "make bench [ONLY=jobs]   measurements; all of them are written to docs/performance.md"
	@echo "make fuzz [ONLY=target SECONDS=600]   everything that parses, under atheris: docs/fuzzing.md"
	@echo "make soak [SECONDS=600]  escrows in storms, by seeds, and killed at every point: docs/testing.md"
	@echo "make clean               remove everything that make installed or wrote"

demo:
	@$(PARALLEL) $(RUN) $(MINT)
	@.venv/bin/tradepost demo $(if $(INPUT),--input "$(INPUT)")

test:
	@$(call timed,installing,$(PARALLEL) $(DEV) $(MINT) $(NODE_MODULES))
	@$(call timed,tests,$(QUICKLY) .venv/bin/python -m pytest --numprocesses=$(WORKERS) --dist=worksteal -m "not alone" \
		$(MEASURED:%=--cov=%) --cov-report= --durations=20)
	@$(call timed,what is measured alone,$(QUICKLY) .venv/bin/python -m pytest -m alone)
	@$(call timed,coverage,for package in $(MEASURED); do \
		echo "== coverage of $$package: 90 % at least"; \
		.venv/bin/coverage report --include="$$package/*" --skip-covered --show-missing --fail-under=90 || exit 1; \
	done)
	@echo "== the whole of it: $$(( $$(date +%s) - $(BEGUN) )) s, at most 720"

check: $(DEV)
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy
	.venv/bin/lint-imports --no-cache

bench:
	@$(PARALLEL) $(DEV) $(MINT)
	@ONLY="$(ONLY)" .venv/bin/python -m bench

fuzz: $(FUZZ)
	@nice .venv/bin/python -m fuzz $(ONLY) --seconds $(SECONDS)

soak:
	@$(PARALLEL) $(DEV) $(MINT)
	@nice .venv/bin/python -m soak --seconds $(SECONDS)
	@TRADEPOST_KILLS=all TRADEPOST_KILL_SECONDS=3600 $(QUICKLY) nice .venv/bin/python -m pytest -s -o faulthandler_timeout=0 \
		tests/escrow/test_points.py tests/escrow/test_kill.py

clean:
	rm -rf .venv .venv-mint .cache tests/interop/node_modules build dist .coverage* .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# This Python's pip installs into the environments: they need none of their own, nor ensurepip, which Debian splits off.
.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(None if (3, 11) <= sys.version_info < (3, 13) else \
		"Tradepost needs Python 3.11 or 3.12; name one with: make PYTHON=python3.12")'
	@$(PYTHON) -m venv --clear --without-pip .venv

$(RUN): pyproject.toml constraints.txt | .venv/bin/python
	@echo "Installing Tradepost into .venv"
	@$(PIP) --constraint constraints.txt --editable .
	@touch $@

$(DEV): $(RUN)
	@echo "Installing the tools for tests, checks and measurements into .venv"
	@$(PIP) --constraint constraints.txt --editable '.[dev,bench]'
	@touch $@

$(FUZZ): $(RUN)
	@echo "Installing atheris into .venv"
	@$(PIP) --constraint constraints.txt --editable '.[fuzz]'
	@touch $@

$(MINT): tradepost/mint_venv.py tradepost/data/mint-requirements.txt | .venv/bin/python
	@echo "Installing the mint into .venv-mint"
	@$(PYTHON) -P tradepost/mint_venv.py .venv-mint
	@touch $@

$(NODE_MODULES): tests/interop/package.json tests/interop/package-lock.json $(DEV)
	@echo "Installing the Node clients into tests/interop/node_modules"
	@cd tests/interop && ../../.venv/bin/python npm.py ci --ignore-scripts --no-audit --no-fund --loglevel=error
	@touch $@
