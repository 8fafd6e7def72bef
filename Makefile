# Everything a contributor or a first visitor needs. A virtual environment is made in .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
# Not the loggers: once installed they log every run, those of the tests among them.
LOGGERS := plugins/img2img-wandb/pyproject.toml plugins/img2img-mlflow/pyproject.toml
PLUGINS := $(filter-out $(LOGGERS),$(wildcard plugins/*/pyproject.toml))
# Test processes; one for each core. 0 runs all tests in one.
JOBS ?= auto

.PHONY: demo test check format clean

# Trains on pairs the program draws itself, then colours drawings it has not seen.
demo: $(READY)
	$(BIN)/img2img run recipes/quickstart.toml --out runs/demo --fresh
	$(BIN)/python -m img2img.data.draw_pairs runs/demo-pairs --count 8
	$(BIN)/img2img infer runs/demo runs/demo-pairs runs/demo-colored --split left --overwrite
	@echo
	@echo "Look at  runs/demo/report.html          the run: curves, and how the pictures became better"
	@echo "         runs/demo/samples/             held-out drawings, what became of them, the truth"
	@echo "         runs/demo-pairs/               drawings it had not seen, beside the truth"
	@echo "         runs/demo-colored/             what the model made of the drawings"

test: $(READY)
	$(BIN)/python -m pytest -q -n $(JOBS) --dist worksteal

check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# The GPU build of PyTorch is downloaded once; it runs on a CPU as well. It comes first, alone: pip keeps
# the archives of all it installs until it is done, and so this takes over a gigabyte less of disk.
$(READY): pyproject.toml $(PLUGINS)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "img2img needs Python 3.11 or newer; try: make $(MAKECMDGOALS) PYTHON=python3.12"; exit 1; }
	@echo "setting up $(VENV): PyTorch is large, so this takes a few minutes the first time"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet torch
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	$(BIN)/python -m pip install --quiet --no-deps $(foreach p,$(PLUGINS),--editable $(dir $(p)))
	@touch $(READY)

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache
