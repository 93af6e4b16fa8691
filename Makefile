# Five verbs: install check test demo clean. Each does its own set-up in .venv; nothing outside this folder is touched.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: install check test test-all demo clean

install: $(STAMP)  ## maskline and its tools, at the exact versions of constraints.txt

$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev,export,imagenet,microscopy,openvino]'
	touch $@

check: $(STAMP)  ## style, types, and the direction of the imports
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

test: $(STAMP)  ## what is fast; those that need the real images skip where these are absent
	$(BIN)/pytest -m "not slow and not gpu"

test-all: $(STAMP)  ## also what starts servers or trains
	$(BIN)/pytest -m "not gpu"

demo: $(STAMP)  ## the whole line once, on made images, below demo/
	$(BIN)/maskline demo

clean:  ## everything that was made here, but .venv
	rm -rf build dist demo .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find flows pipeline unet tests bench -name __pycache__ -type d -prune -exec rm -rf {} +
