# make demo      sets everything up on a fresh machine and runs the main job
# make test      sets everything up and runs the tests (make test-all: with the slow ones)
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
# DATA: the folder of public data sets that some reproductions and tests read; see README, Adding to it.
DATA ?= ../shared/data

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-all lint ls wheel

help: ## print this list
	@grep -hE '^[a-z0-9%-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-14s %s\n", $$1, $$2}'

setup: $(READY) ## make the virtual environment and install permlab with the pinned packages

# torch first and alone: with it installed, nothing below pulls another build of it.
$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q -c constraints.txt torch==2.13.0
	$(BIN)/python -m pip install -q -c constraints.txt "setuptools>=77" wheel
	$(BIN)/python -m pip install -q -c constraints.txt -e ".[dev]"
	touch $(READY)

demo: setup ## set up, then train and ask the embedded default (task=spt)
	$(BIN)/permlab

# One thread a process: the tests train tiny models, where more threads wait for each other. Byte code is kept in any
# case: many tests start the command. A process that has nothing left takes over from another, so that none waits for long
# tests and each makes the fixtures of a folder once.
PYTEST := PYTHONDONTWRITEBYTECODE= OMP_NUM_THREADS=1 PERMLAB_DATA="$${PERMLAB_DATA:-$(DATA)}" $(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist worksteal

test: setup ## set up, then run the tests, without the slow ones
	$(PYTEST) -m "not slow"

test-all: setup ## set up, then run every test
	$(PYTEST)

# vermin takes torch.long for Python 2's long.
lint: setup ## check style, formatting, types and the oldest Python
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/vermin --quiet --violations --target=3.10- --exclude long permlab tests scripts setup.py

wheel: setup ## dist/permlab-VERSION-py3-none-any.whl
	$(BIN)/python -m pip wheel -q --no-deps --no-build-isolation -w dist .
	@ls dist/*.whl

ls: setup ## list tasks, models, datasets, hardware and experiments
	$(BIN)/permlab ls

# ---- reproductions: experiments one after another, then the report; what is finished is not run again ----------------
# Which experiments there are stands in conf/experiment/ alone: `permlab ls experiments`.
REPRODUCE = $(BIN)/python scripts/reproduce.py --data "$(DATA)"
.PHONY: reproduce

reproduce: setup ## one experiment, or a pattern: make reproduce EXPERIMENT=merge/rebasin [DATA=folder]
	@test -n "$(EXPERIMENT)" || { echo "name one of permlab ls experiments: make reproduce EXPERIMENT=TASK/NAME"; exit 2; }
	$(REPRODUCE) "$(EXPERIMENT)"

reproduce-%: setup ## reproduce-TASK: every experiment of it; reproduce-quick: all tasks in minutes; reproduce-all: hours
	$(REPRODUCE) "$*"

GPU_PYTHON ?= 3.12
.PHONY: gpu-check gpu-bundle

gpu-check: ## every task and Llama-1B on this machine's GPU against the CPU: one table, under eight minutes
	$(if $(wildcard $(BIN)/python),$(BIN)/python,$(PYTHON)) scripts/gpu_check.py

gpu-bundle: setup ## dist/gpu-bundle: wheels of what a CUDA machine without network lacks; GPU_PYTHON=3.12
	$(BIN)/python scripts/gpu_check.py --bundle $(GPU_PYTHON)

bench-%: setup ## bench-NAME: speed and memory, scripts/bench_NAME.py
	$(BIN)/python "scripts/bench_$*.py"

torture-%: setup ## torture-NAME: kills, faults, hostile files in their long form, scripts/torture_NAME.py
	$(BIN)/python "scripts/torture_$*.py"
