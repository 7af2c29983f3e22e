# The first two lines of the README are targets here. `make demo CUDA=1` runs on an NVIDIA GPU.
PYTHON ?= python3
CUDA ?=
EXTRAS ?= test
VENV := .venv
BIN := $(VENV)/bin
DEMO_STAMP := $(VENV)/.installed-demo$(if $(CUDA),-cuda)
comma := ,
TEST_STAMP := $(VENV)/.installed-$(subst $(comma),-,$(EXTRAS))$(if $(CUDA),-cuda)
TEST_PROCESSES ?= 2

.PHONY: demo test check lint format test-gpu goldens docs clean

demo: $(DEMO_STAMP)  ## a story, streamed, with tokens/s at the end
	$(BIN)/jinfer generate --prompt "Once upon a time" --echo --seed 3 --max-tokens 200

test: check  ## everything that a machine without a GPU can show
	$(BIN)/python -m pytest -q -n $(TEST_PROCESSES)

check: $(TEST_STAMP) lint
	$(BIN)/mypy

lint: $(TEST_STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

format: $(TEST_STAMP)  ## write what `lint` wants to see
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

test-gpu: $(TEST_STAMP)  ## the same tests on a GPU, with compiled kernels, and those that need one (with CUDA=1)
	XLA_PYTHON_CLIENT_PREALLOCATE=false $(BIN)/python -m pytest -q -n 4

goldens: $(TEST_STAMP)  ## rewrite tests/fixtures from transformers (EXTRAS=test,oracle)
	$(BIN)/python -m tools.make_goldens

docs: $(TEST_STAMP)  ## write docs/api.md from the docstrings
	$(BIN)/python -m tools.make_api_docs

clean:
	rm -rf $(VENV)

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(DEMO_STAMP): pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet -e ".$(if $(CUDA),[cuda])"
	touch $@

$(TEST_STAMP): pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet -e ".[$(EXTRAS)$(if $(CUDA),$(comma)cuda)]"
	touch $@
