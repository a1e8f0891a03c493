# `make` lists what there is. Needs Python 3.11 or newer, and nothing else installed.
PYTHON ?= python3
VENV = .venv
BIN = $(VENV)/bin

SAMPLE = test/input/interface_0
ANSWER = likelihood-of-bladder-cancer-recurrence.json
SCRIPTS = do_build.sh do_test_run.sh do_save.sh .ci/run
BENCHMARKS = $(sort $(wildcard test/bench/*.py))
IMAGE_TEST = ../shared/tools/image_test.sh

.PHONY: help demo test test-slow check bench image-test clean

help:  ## list these commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-12s%s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(VENV)/.runtime  ## score the sample case and print the predicted months
	@echo "Scoring $(SAMPLE) into build/demo"
	@rm -rf build/demo && mkdir -p build/demo
	@$(BIN)/python inference.py --input $(SAMPLE) --output build/demo
	@printf 'Predicted time to recurrence: %.1f months\n' "$$(cat build/demo/$(ANSWER))"

# Two processes of one thread each: the tests' matrices are too small to share.
test: $(VENV)/.dev  ## run the fast tests
	@echo "Running the fast tests (make test-slow has the others)"
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 --dist loadfile -m "not slow"

test-slow: $(VENV)/.dev  ## run the others: seconds to minutes each
	@echo "Running the slow tests"
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 --dist loadfile -m slow --durations=10

check: $(VENV)/.dev  ## check format, lint, types, import rules, Dockerfile and shell scripts
	@echo "ruff format" && $(BIN)/ruff format --check .
	@echo "ruff check" && $(BIN)/ruff check .
	@echo "mypy" && $(BIN)/mypy
	@echo "lint-imports" && $(BIN)/lint-imports --no-logo
	@echo "hadolint" && $(BIN)/hadolint Dockerfile
	@echo "shellcheck" && $(BIN)/shellcheck $(SCRIPTS)

bench: $(VENV)/.dev  ## run the benchmarks
	@echo "Benchmarks: $(BENCHMARKS)"
	@set -e; for script in $(BENCHMARKS); do \
		echo "== $$script"; PYTHONPATH=.:test $(BIN)/python $$script; \
	done

# $(IMAGE_TEST) builds without Docker; elsewhere do_test_run.sh is the ordinary way.
image-test:  ## build the image and score the sample case in it
	@if [ -x $(IMAGE_TEST) ]; then \
		mkdir -p build/image/weights; \
		GCCI_MIN_FREE_GB=25 nice $(IMAGE_TEST) -c . -i $(SAMPLE) -x $(ANSWER) -o build/image/output \
			-m $(or $(wildcard weights),build/image/weights); \
	elif docker info >/dev/null 2>&1; then \
		./do_test_run.sh; \
	else \
		echo "image-test skipped: no Docker engine answers here, and there is no $(IMAGE_TEST)"; \
	fi

clean:  ## remove the environment, the caches and what the other commands wrote
	rm -rf $(VENV) build test/output .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "TriSurv needs Python 3.11 or newer; name one: make PYTHON=python3.11 ..."; exit 1; }
	@echo "Making an environment in $(VENV)"
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); exit 1; }

$(VENV)/.runtime: requirements.txt | $(BIN)/python
	@echo "Installing requirements.txt into $(VENV) (minutes the first time: torch is large)"
	@$(BIN)/python -m pip install -qq --disable-pip-version-check -r requirements.txt
	@touch $@

$(VENV)/.dev: requirements-dev.txt $(VENV)/.runtime
	@echo "Installing requirements-dev.txt into $(VENV)"
	@$(BIN)/python -m pip install -qq --disable-pip-version-check -r requirements-dev.txt
	@touch $@
