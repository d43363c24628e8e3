# The project's commands. `make` alone lists them.
# Every target prepares .venv first: it needs only Python 3.11 (or 3.12), make and a package registry.

SHELL := /bin/sh
.DEFAULT_GOAL := help
.PHONY: help setup demo test lint bench lock proto

VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
ARGS ?=

# The first Python that can make an environment; `make PYTHON=/path/to/python setup` names one.
CANDIDATES := $(or $(PYTHON),python3.11 python3.12 python3 python)
SUITS := import sys, venv, ensurepip; sys.exit(sys.version_info[:2] not in ((3, 11), (3, 12)))

help: ## list these commands
	@grep -E '^[a-z]+:.*## ' Makefile | sed -E 's/^([a-z]+):.*## /  make \1\t/' | expand -t 16

setup: $(READY) ## prepare .venv from requirements.lock; .venv/bin/haechi is then the command
	@echo "$(VENV) is ready: $(BIN)/haechi --help"

demo: $(READY) ## the whole path on built-in samples (ARGS=--once: print the result and end)
	$(BIN)/haechi demo $(ARGS)

test: $(READY) ## the tests, without the slow ones and the browser (ARGS="-k name" chooses)
	$(BIN)/python -m pytest $(ARGS)

lint: $(READY) ## style, types and import rules
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(READY) ## measure training, inference, compression and sizes on this machine (ARGS="--json FOLDER")
	$(BIN)/python -m benchmarks $(ARGS)

proto: $(READY) ## compile the gRPC service's definition anew
	$(BIN)/python -m grpc_tools.protoc -I shared/serving/rpc \
		--descriptor_set_out=shared/serving/rpc/inference.binpb inference.proto

# Machine-wide index settings are left out, so that the lock is the same wherever it is made; it names packages and
# hashes and nothing of where they were fetched.
lock: $(READY) ## make requirements.lock anew (ARGS=--upgrade for the newest versions)
	env -u UV_INDEX -u UV_DEFAULT_INDEX -u UV_INDEX_URL -u UV_EXTRA_INDEX_URL -u UV_FIND_LINKS \
		$(BIN)/uv pip compile --system-certs pyproject.toml --all-extras --universal --generate-hashes \
		--custom-compile-command 'make lock' --quiet --output-file requirements.lock $(ARGS)
	@if grep -niE 'https?://|^--|\+cpu' requirements.lock; then \
		echo "error: requirements.lock says where packages come from (the lines above)." >&2; exit 1; fi

# uv itself comes from the lock too, checked by its hashes; it trusts the certificates that the system trusts (a company
# proxy's, say). Libraries are compiled once, here: else each command that may not write beside them compiles PyTorch
# anew, for ten seconds. The stamp is written last, so that an interrupted set-up starts over.
$(READY): requirements.lock pyproject.toml
	@if ! $(BIN)/python -c '' 2>/dev/null; then \
		for candidate in $(CANDIDATES); do \
			if "$$candidate" -c '$(SUITS)' 2>/dev/null; then found=$$candidate; break; fi; \
		done; \
		if [ -z "$$found" ]; then \
			echo "error: no Python 3.11 or 3.12 with venv was found among: $(CANDIDATES)." \
				"Install python3.11 and python3.11-venv, or name one: make PYTHON=/path/to/python3.11 setup" >&2; \
			exit 1; \
		fi; \
		echo "Making $(VENV) with $$found"; \
		"$$found" -m venv --clear $(VENV); \
	fi
	@awk '/^uv==/ {on = 1} on {print} on && !/\\$$/ {exit}' requirements.lock > $(VENV)/uv.txt
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r $(VENV)/uv.txt
	$(BIN)/uv pip install --system-certs --python $(BIN)/python --require-hashes --no-deps --compile-bytecode \
		-r requirements.lock
	$(BIN)/uv pip install --system-certs --python $(BIN)/python --quiet --no-deps --no-build-isolation --editable .
	@touch $(READY)
