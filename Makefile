# Two commands: `make run` does everything from the data to submission.csv, `make test` checks the code.
# Neither needs root or a GPU. The environment lives in .venv and is made once.

VENV := .venv
BIN := $(VENV)/bin
TEST_PROCESSES ?= 2
.DEFAULT_GOAL := help
.PHONY: help setup run test lint lab clean

help: ## show this list
	@echo "usage: make TARGET [NAME=value ...]"
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' Makefile | while IFS="$$(printf '\t')" read -r name text; do printf '  %-6s %s\n' "$$name" "$$text"; done

run: $(VENV)/installed ## everything: data to submission.csv and pictures  [DATA=folder] [PRESET=quick] [RUN=name] [ALSO="a.lmdb b.lmdb"]
	@"$(BIN)/hangul-ocr" run $(foreach store,$(ALSO),--also "$(store)") $(if $(PRESET),--preset "$(PRESET)") \
		$(if $(DATA),--data "$(DATA)") $(if $(RUN),--run "$(RUN)")

test: $(VENV)/installed-for-tests ## the tests, then the style checks
	@OMP_NUM_THREADS=1 "$(BIN)/python" -m pytest -n $(TEST_PROCESSES) --dist loadfile $(ARGS)
	@"$(BIN)/ruff" check --quiet . && "$(BIN)/ruff" format --quiet --check .

lint: $(VENV)/installed-for-tests ## the style checks alone, repairing what can be repaired
	@"$(BIN)/ruff" check --fix . ; "$(BIN)/ruff" format .

lab: $(VENV)/installed ## open JupyterLab on the notebooks
	@cd notebooks && "../$(BIN)/jupyter-lab"

setup: $(VENV)/installed ## make the environment in .venv  [PYTHON=python3.12]
	@echo "source $(BIN)/activate puts hangul-ocr on the PATH of this terminal; $(BIN)/hangul-ocr works without"

# The stamps are younger than pyproject.toml as long as it has not changed, so a second run starts at once.
$(VENV)/installed: pyproject.toml $(BIN)/python
	@echo "Installing PyTorch and the other packages into $(VENV). The first time this takes some minutes (about 3 GB)."
	@"$(BIN)/python" -m pip install --disable-pip-version-check --no-input --editable .
	@"$(BIN)/python" -m hangul_ocr.bootstrap
	@touch "$@"

$(VENV)/installed-for-tests: $(VENV)/installed
	@"$(BIN)/python" -m pip install --disable-pip-version-check --no-input --quiet --editable ".[test]"
	@touch "$@"

# Takes PYTHON if it is named, else the first of these that is 3.11 to 3.13 and really starts.
$(BIN)/python:
	@for python in $(if $(PYTHON),"$(PYTHON)",python3 python3.13 python3.12 python3.11 python); do \
		if "$$python" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null; then \
			"$$python" -c 'import ensurepip, venv' 2>/dev/null || { \
				echo "$$python lacks venv: install it (Debian, Ubuntu: apt install python3-venv), or set PYTHON=..." >&2; exit 1; }; \
			echo "Making $(VENV) with $$("$$python" --version)"; \
			exec "$$python" -m venv "$(VENV)"; \
		fi; \
	done; \
	echo "Needs Python 3.11 to 3.13, found $$(python3 --version 2>&1 || echo none): install one, or say make setup PYTHON=/path/to/python3.12" >&2; \
	exit 1

clean: ## remove the environment and the caches, never input, output or submissions
	rm -rf "$(VENV)" build src/hangul_ocr.egg-info .pytest_cache .ruff_cache .hypothesis
	find src tests benchmarks notebooks -name __pycache__ -type d -prune -exec rm -rf {} +
