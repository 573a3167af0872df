# Every command that sets something up or checks something. Choose an interpreter with: make PYTHON=python3.12 ...
PYTHON ?= python3
BIN := .venv/bin
DEMO_RUNS := runs/demo
DEMO_FIGURES := figures/demo

LAPTOP_SWEEPS := rates mini_batch_size inner_loss per_token books_scaling books_complete training
NIGHT_SWEEPS := ablation ablation_text
LAPTOP_RUNS := runs/laptop
# make laptop KNOWN=FOLDER: runs that lie in FOLDER count as made, and new ones are collected there.
KNOWN ?=
LAPTOP_RESULTS := $(or $(KNOWN),$(LAPTOP_RUNS))
# The rows of Table 1 from the learnable W_0 on, two seeds; make night adds the other rows, seeds and controls.
QUICK_TABLE_1 := +ablation=row4,row5,row6,row7,row8 seed=0,1 model.rope_period=default
LAPTOP_FIGURES := figures/laptop
# A worker takes whole files, the slowest first, so that no long file is left at the end. There is one worker more than
# cores, because the tests on a cluster mostly wait.
WORKERS = $(shell $(PYTHON) -c "import os; print(min(8, os.cpu_count() + 1))")
PYTEST = $(BIN)/python -m pytest --numprocesses $(WORKERS) --dist loadfile --no-loadscope-reorder
SWEEP = $(BIN)/ttt-sweep $(1) sweep=$(2) scale=laptop runs=$(LAPTOP_RUNS)
TRAIN = $(call SWEEP,submit,$(1)) $(2) slurm=local slurm.parallel=2 trainer.progress=false $(KNOWN:%=known=%) && \
  $(call SWEEP,status,$(1)) --watch interval=60
COLLECT = $(if $(KNOWN),$(call SWEEP,collect,$(1)) out=$(KNOWN),true)

.DEFAULT_GOAL := help
.PHONY: help setup demo laptop night test quick check gpu clean

help: ## this list
	@grep -E '^[a-z]+:.*## ' Makefile | sed 's/:.*## /\t/' | expand -t 12

setup: .venv/installed ## create .venv and install the project with its pinned dependencies

.venv/installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "make: python 3.11 or newer is needed, $(PYTHON) is " + sys.version.split()[0] + "; try: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $@

demo: setup ## train the default model, evaluate it and draw its figures (a few minutes without a GPU)
	$(BIN)/ttt-train runs=$(DEMO_RUNS) ckpt=last
	$(BIN)/ttt-plot --all runs=$(DEMO_RUNS) out=$(DEMO_FIGURES)

laptop: setup ## every figure and claim from runs on this machine (over two hours on 2 cores; can be resumed)
	@for sweep in $(LAPTOP_SWEEPS); do $(call TRAIN,$$sweep) || exit; done
	@$(call TRAIN,ablation folder=$(LAPTOP_RUNS)/sweeps/table_1,$(QUICK_TABLE_1))
	$(call SWEEP,status,inner_loss) --folders | xargs -I{} $(BIN)/ttt-eval run={} probe=inner_loss
	$(call SWEEP,status,per_token) --folders | xargs -I{} $(BIN)/ttt-eval run={} probe=context_gain
	$(BIN)/ttt-bench inner inner_model=linear kernels=plain width=2048 heads=32 backward=false \
	  mini_batch_size=1,2,4,8,16,32,64,128,256,512,1024,2048 runs=$(LAPTOP_RUNS)
	$(BIN)/ttt-bench latency runs=$(LAPTOP_RUNS)
	@for sweep in $(LAPTOP_SWEEPS) "ablation folder=$(LAPTOP_RUNS)/sweeps/table_1"; do $(call COLLECT,$$sweep) || exit; done
	$(BIN)/ttt-plot --all runs=$(LAPTOP_RESULTS) out=$(LAPTOP_FIGURES)
	$(BIN)/ttt-plot report runs=$(LAPTOP_RESULTS) out=$(LAPTOP_FIGURES)/report.html
	$(BIN)/ttt-claims runs=$(LAPTOP_RESULTS) out=$(LAPTOP_FIGURES)/claims.csv

night: laptop ## Table 1 whole: all rows, five seeds, the paper's literal text (over two hours more; can be resumed)
	@for sweep in $(NIGHT_SWEEPS); do $(call TRAIN,$$sweep) && $(call COLLECT,$$sweep) || exit; done
	$(BIN)/ttt-plot --all runs=$(LAPTOP_RESULTS) out=$(LAPTOP_FIGURES)
	$(BIN)/ttt-claims runs=$(LAPTOP_RESULTS) out=$(LAPTOP_FIGURES)/claims.csv

test: setup ## run all tests (11 minutes on 2 cores)
	$(PYTEST)

quick: setup ## run the tests that are not marked slow (two minutes on 2 cores): for use while working
	$(PYTEST) --numprocesses logical --maxprocesses 8 -m "not slow"

check: setup ## lint, format and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

gpu: setup ## on a machine with a CUDA device: compare the kernels on it, train with them, time them
	$(BIN)/python -m pytest -m gpu
	$(BIN)/ttt-bench latency scale=paper device=cuda

clean: ## remove .venv and caches; runs and figures stay
	rm -rf .venv .pytest_cache .ruff_cache .mypy_cache .hypothesis build *.egg-info
