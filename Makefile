# make demo      sets everything up on a fresh machine and runs the main job
# make test      sets everything up and runs the tests (make test-all: with the slow ones)
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
# DATA: the folder of public data sets that some reproductions and tests read; see README, Tests.
DATA ?= ../shared/data

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-all lint ls

help: ## print this list
	@grep -hE '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-28s %s\n", $$1, $$2}'

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

# One thread a process: the tests train tiny models, where more threads wait for each other.
PYTEST := OMP_NUM_THREADS=1 PERMLAB_DATA="$${PERMLAB_DATA:-$(DATA)}" $(BIN)/python -m pytest --numprocesses auto --maxprocesses 4

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

ls: setup ## list tasks, models, datasets, hardware and experiments
	$(BIN)/permlab ls

# ---- reproductions: all experiments of a task one after another, then the report; what is finished is not run again --
REPRODUCE := $(BIN)/python scripts/reproduce.py --data "$(DATA)"
.PHONY: reproduce-quick reproduce-all reproduce-ntk reproduce-probe reproduce-merge reproduce-spt reproduce-lego

reproduce-quick: setup ## all five tasks in a reduced version, under 15 minutes on 2 cores, then the report
	$(REPRODUCE) quick

reproduce-all: setup ## everything below (hours), then the report; DATA=folder for public data
	$(REPRODUCE) all

reproduce-ntk: setup ## NTK: every experiment, then the report
	$(REPRODUCE) ntk

reproduce-probe: setup ## Probe: every experiment, then the report
	$(REPRODUCE) probe

reproduce-merge: setup ## Merging: every experiment, then the report
	$(REPRODUCE) merge

reproduce-spt: setup ## SPT: every experiment, then the report (Berglund et al. with DATA=folder)
	$(REPRODUCE) spt

reproduce-lego: setup ## LoRA-LEGO: every experiment, then the report (sentence tasks with DATA=folder)
	$(REPRODUCE) lego

# ---- one experiment each, with its comparison table ------------------------------------------------------------------
.PHONY: reproduce-spt-people reproduce-spt-symbolic reproduce-spt-order-matrix reproduce-spt-berglund

reproduce-spt-people: setup ## SPT: fictitious persons, five orders, three seeds
	$(BIN)/permlab experiment=spt/people

reproduce-spt-symbolic: setup ## SPT: entity pairs of 2 and 4 words, seven orders, three seeds
	$(BIN)/permlab experiment=spt/symbolic

reproduce-spt-order-matrix: setup ## SPT: train on one of four surface forms, ask all four
	$(BIN)/permlab experiment=spt/order_matrix

reproduce-spt-berglund: setup ## SPT: the data set of Berglund et al. (DATA=folder)
	$(BIN)/permlab experiment=spt/berglund dataset.path=$(DATA)/reversal_curse
	$(BIN)/permlab experiment=spt/berglund dataset.path=$(DATA)/reversal_curse task.order=spt \
	  task.segmenter.name=presegmented task.segmenter.units=$(DATA)/spt_segmented/person_description.sep.txt

.PHONY: reproduce-lego-identities reproduce-lego-default reproduce-lego-lists reproduce-lego-text
.PHONY: reproduce-lego-prune reproduce-lego-ranks bench-lego

reproduce-lego-identities: setup ## LoRA-LEGO: exact identities, gauges, norms, seeds; no training
	$(BIN)/permlab experiment=lora_lego/identities

reproduce-lego-default: setup ## LoRA-LEGO: three and six knowledge adapters, every method, three seeds
	$(BIN)/permlab experiment=lora_lego/default

reproduce-lego-lists: setup ## LoRA-LEGO: six list operations, every method, three seeds
	$(BIN)/permlab experiment=lora_lego/lists

reproduce-lego-text: setup ## LoRA-LEGO: TREC, SST-2, Subj, MR, every method, three seeds (DATA=folder)
	$(BIN)/permlab experiment=lora_lego/text task.folder=$(DATA)/text_classification

reproduce-lego-prune: setup ## LoRA-LEGO: one adapter with fewer ranks, and three controls
	$(BIN)/permlab experiment=lora_lego/prune

reproduce-lego-ranks: setup ## LoRA-LEGO: adapters of rank 4, 8 and 16
	$(BIN)/permlab experiment=lora_lego/ranks

bench-lego: setup ## LoRA-LEGO: eight rank-16 adapters with the shapes of Llama-3.2-1B, against PEFT
	$(BIN)/python scripts/bench_lora_lego.py

.PHONY: reproduce-ntk-figure1-left reproduce-ntk-figure1-right reproduce-ntk-scaling reproduce-ntk-width
.PHONY: reproduce-ntk-parameterization

reproduce-ntk-figure1-left: setup ## NTK: networks to 90 %, k = 2..30: law, band, published points
	$(BIN)/permlab experiment=ntk/figure1_left

reproduce-ntk-figure1-right: setup ## NTK: accuracy against the number of networks
	$(BIN)/permlab experiment=ntk/figure1_right

reproduce-ntk-scaling: setup ## NTK: ensemble size up to k = 100,000, one input and all inputs
	$(BIN)/permlab experiment=ntk/scaling

reproduce-ntk-width: setup ## NTK: finite networks solved exactly against the law
	$(BIN)/permlab experiment=ntk/width

reproduce-ntk-parameterization: setup ## NTK: which kernel gradient descent follows
	$(BIN)/permlab experiment=ntk/parameterization

.PHONY: reproduce-probe-paper reproduce-probe-scaling reproduce-probe-scratch-count
.PHONY: reproduce-probe-architectures reproduce-probe-construction bench-probe

reproduce-probe-paper: setup ## Probe: no mask, scratch rows and causal at n = 10 in one figure, exact floors, three seeds
	$(BIN)/permlab experiment=inverse_permutation/paper

reproduce-probe-construction: setup ## Probe: explicit weights at n = 64 against temperature; no training
	$(BIN)/permlab experiment=inverse_permutation/construction

reproduce-probe-scratch-count: setup ## Probe: 0..2n scratch rows before or after the input, with the floor of each
	$(BIN)/permlab experiment=inverse_permutation/scratch_count

reproduce-probe-scaling: setup ## Probe: n = 8, 16, 32, 64 with scratch rows
	$(BIN)/permlab experiment=inverse_permutation/scaling

reproduce-probe-architectures: setup ## Probe: Llama, GPT-2, BERT and T5 read in place, at filler tokens, or generating
	$(BIN)/permlab experiment=inverse_permutation/architectures

bench-probe: setup ## Probe: steps and seconds against the published recipe
	$(BIN)/python scripts/bench_probe.py

.PHONY: reproduce-merge-rebasin reproduce-merge-batchnorm reproduce-merge-width
.PHONY: reproduce-merge-lmc reproduce-merge-pleas reproduce-merge-llama

reproduce-merge-rebasin: setup ## Merge: MLPs of width 32, 128, 512, four ways to match; MNIST too where DATA=folder has it
	$(BIN)/permlab experiment=merge/rebasin
	test ! -d $(DATA)/mnist || $(BIN)/permlab experiment=merge/rebasin dataset=mnist dataset.path=$(DATA)/mnist

reproduce-merge-batchnorm: setup ## Merge: ResNets with BatchNorm, width x1, x4, x8, statistics reset with and without matching
	$(BIN)/permlab experiment=merge/batchnorm

reproduce-merge-width: setup ## Merge: no permutation with calibrated outputs against weight matching, widths up to 1024
	$(BIN)/permlab experiment=merge/width

reproduce-merge-lmc: setup ## Merge: why matching works (distances, singular vectors, Taylor, causal arms), three networks
	$(BIN)/permlab experiment=merge/lmc
	$(BIN)/permlab experiment=merge/lmc_three

reproduce-merge-llama: setup ## Merge: five pairs of tiny grouped-query Llamas, perplexity at the midpoint
	$(BIN)/permlab experiment=merge/llama

reproduce-merge-pleas: setup ## Merge: partial merging with every control; different labels, two domains, a BatchNorm ResNet
	$(BIN)/permlab experiment=merge/pleas
	$(BIN)/permlab experiment=merge/pleas_domains
	$(BIN)/permlab experiment=merge/pleas_resnet
