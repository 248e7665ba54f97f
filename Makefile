# `make demo` and `make test` need nothing but Python 3.11 or later and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
# One thread for BLAS and OpenMP: two test processes share the cores.
export OMP_NUM_THREADS := 1

.PHONY: help demo test lint format matrix nightly benchmark figures papers clean

help:
	@echo "make demo       install and compress a real model of fixtures/"
	@echo "make test       install what tests need and run them"
	@echo "make lint       ruff and mypy"
	@echo "make matrix     the exactness matrix of every architecture and exporter"
	@echo "make nightly    the long property tests"
	@echo "make benchmark  beside other tools, on all models (ONLY=minilm: one), within 90 minutes"
	@echo "make figures    the other figures of benchmarks/*.md, within a day"
	@echo "make papers     thirteen systems beside their papers, at small scale"

$(VENV)/.core: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP) install --constraint constraints.txt --editable .
	@touch $@

$(VENV)/.dev: $(VENV)/.core
	$(PIP) install --constraint constraints.txt --editable '.[dev]'
	@touch $@

DEMO := fixtures/gloss-classifier
demo: $(VENV)/.core
	@mkdir -p demo
	$(BIN)/onnxprune optimize $(DEMO)/model.onnx --data $(DEMO)/calibration.npz --output demo/model.onnx
	@echo "accuracy on 512 held-out glosses, before and after:"
	@$(BIN)/python fixtures/score.py $(DEMO)/model.onnx --fixture gloss-classifier
	@$(BIN)/python fixtures/score.py demo/model.onnx --fixture gloss-classifier

test: $(VENV)/.dev
	$(BIN)/python -m pytest -n 2 --dist loadfile -m "not serial and not matrix and not nightly"
	$(BIN)/python -m pytest -m serial

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

matrix: $(VENV)/.dev
	$(BIN)/python -m pytest -n 2 -m matrix

nightly: $(VENV)/.dev
	$(BIN)/python -m pytest -n 2 -m nightly

$(VENV)/.benchmarks: $(VENV)/.dev benchmarks/requirements.txt
	$(PIP) install --constraint constraints.txt --requirement benchmarks/requirements.txt
	@touch $@

# Other tools live in environments of their own; models are fetched into .cache/benchmarks by pip and apt-get.
benchmark: $(VENV)/.benchmarks
	$(BIN)/python -m benchmarks.benchmark $(if $(ONLY),--only $(ONLY))

# What else benchmarks/*.md publish.
figures: $(VENV)/.benchmarks
	$(BIN)/python -m benchmarks.main_job
	$(BIN)/python -m benchmarks.exactness
	$(BIN)/python -m benchmarks.structured
	$(BIN)/python -m benchmarks.low_rank
	$(BIN)/python -m benchmarks.blocks
	$(BIN)/python -m benchmarks.scaling
	$(BIN)/python -m benchmarks.growth
	$(BIN)/python -m benchmarks.ceiling
	$(BIN)/python -m benchmarks.sparsity
	$(BIN)/python -m benchmarks.storage --web .cache/web --older .cache/ort121
	$(BIN)/python -m benchmarks.static
	$(BIN)/python -m benchmarks.goals
	$(BIN)/python -m benchmarks.resume
	$(BIN)/python -m benchmarks.fronts
	$(BIN)/python -m benchmarks.mobile all
	$(BIN)/python -m benchmarks.recovery
	$(BIN)/python -m benchmarks.torch_module
	$(BIN)/python -m benchmarks.streamline
	$(BIN)/python -m benchmarks.fused
	$(BIN)/python -m benchmarks.layouts
	$(BIN)/python -m benchmarks.large
	$(BIN)/python -m benchmarks.cluster
	$(BIN)/python -m benchmarks.packaging
	$(BIN)/python -m benchmarks.check

# One row a system; what was measured is kept, so that it goes on where it was stopped.
papers: $(VENV)/.dev
	$(PIP) install --constraint constraints.txt --requirement benchmarks/requirements.txt
	$(BIN)/python -m benchmarks.papers

clean:
	rm -rf $(VENV) demo build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
