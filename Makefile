# Every command that sets something up or checks something. Choose an interpreter with: make PYTHON=python3.12 ...
PYTHON ?= python3
BIN := .venv/bin
DEMO_RUNS := runs/demo
DEMO_FIGURES := figures/demo

LAPTOP_RUNS := runs/laptop
# make laptop KNOWN=FOLDER: runs that lie in FOLDER count as made, and new ones are collected there.
KNOWN ?=
LAPTOP_RESULTS := $(or $(KNOWN),$(LAPTOP_RUNS))
LAPTOP_FIGURES := figures/laptop
# The three sets: make laptop trains parts of five sweeps, make night every claim's sweep, make whole the rest. A part
# has a folder of its own, because a sweep's folder keeps one plan.
QUICK_SWEEPS := ablation mini_batch_size inner_loss context_gain books_scaling
quick_ablation := +ablation=row4,row5,row6,row7,row8 seed=0,1,2 model.rope_period=default
quick_mini_batch_size := model.mini_batch_size=1,16,256 seed=0,1
quick_inner_loss := seed=0,1
quick_context_gain := ctx=512,2k model=ttt_linear,transformer,mamba backbone=default recipe=paper recipe.learning_rate=default seed=0
quick_books_scaling := size=w128 model=ttt_linear,transformer,mamba backbone=default ctx=512,2k seed=0
NIGHT_SWEEPS := ablation context_gain per_token mini_batch_size inner_loss
night_books_scaling := size=w64,w128
WHOLE_SWEEPS := ablation_text books_scaling books_complete rates mqar
# One GPU: make gpu-night NIGHT=context_gain; other words of ttt-sweep run by WORDS="time=50m data=pile data.path=FILE".
GPU_RUNS := runs/one_gpu
GPU_FIGURES := figures/one_gpu
NIGHT ?= ablation
WORDS ?=
# A worker takes whole files, the slowest first, so that no long file is left at the end. There is one worker more than
# cores, because the tests on a cluster mostly wait.
WORKERS = $(shell $(PYTHON) -c "import os; print(min(8, os.cpu_count() + 1))")
PYTEST = $(BIN)/python -m pytest --numprocesses $(WORKERS) --dist loadfile --no-loadscope-reorder
SWEEP = $(BIN)/ttt-sweep $(1) sweep=$(2) scale=laptop runs=$(LAPTOP_RUNS)
TRAIN = $(call SWEEP,submit,$(1)) $(2) slurm=local slurm.parallel=2 trainer.progress=false $(KNOWN:%=known=%) && \
  $(call SWEEP,status,$(1)) --watch interval=60
COLLECT = $(if $(KNOWN),$(call SWEEP,collect,$(1)) out=$(KNOWN),true)
PART = $(2) folder=$(LAPTOP_RUNS)/sweeps/$(1)_$(2)
TRAIN_PART = $(call TRAIN,$(call PART,$(1),$(2)),$($(1)_$(2)))
# Two at a time; runs that have been probed before an interruption are not probed again.
PROBE = $(call SWEEP,status,$(1)) --folders | xargs -I{} -P 2 \
  sh -c 'test -e {}/$(2).parquet || exec $(BIN)/ttt-eval run={} probe=$(2) $(3)'

UV ?= uv
# The flags of ttt/kernels/cpu/build.py without the processor and OpenMP; for another compiler make arm ARM_CXX=...
ARM_CXX ?= aarch64-linux-gnu-g++
ARM_RUN ?= qemu-aarch64
ARM_FLAGS := -std=c++17 -O3 -ffp-contract=fast -fno-math-errno -fno-trapping-math -Wall -Wextra -Werror -static
KERNELS := ttt/kernels/cpu/kernel_float.cpp ttt/kernels/cpu/kernel_double.cpp

define DRAW
$(BIN)/ttt-plot --all runs=$(1) out=$(2)
$(BIN)/ttt-plot report runs=$(1) out=$(2)/report.html
$(BIN)/ttt-claims runs=$(1) out=$(2)/claims.csv
endef
DRAW_LAPTOP = $(call DRAW,$(LAPTOP_RESULTS),$(LAPTOP_FIGURES))

define BUDGET
$(BIN)/ttt-sweep run budget=$(1) runs=$(GPU_RUNS) $(WORDS)
$(call DRAW,$(GPU_RUNS),$(GPU_FIGURES))
endef

.DEFAULT_GOAL := help
.PHONY: help setup demo laptop night whole hour gpu-hour gpu-night test quick check gpu arm lock site clean

help: ## this list
	@grep -E '^[a-z-]+:.*## ' Makefile | sed 's/:.*## /\t/' | expand -t 12

setup: .venv/installed ## create .venv and install the project with its pinned dependencies

.venv/installed: pyproject.toml constraints.txt
	@$(PYTHON) -E -s ttt/config/supported.py $(PYTHON)
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev,docs]'
	@touch $@

demo: setup ## train the default model for half its steps on a part of the text and draw its figures (a minute on 2 cores)
	$(BIN)/ttt-train runs=$(DEMO_RUNS) recipe.steps=192 data.max_tokens=4000000 ckpt=last
	$(BIN)/ttt-plot --all runs=$(DEMO_RUNS) out=$(DEMO_FIGURES)

laptop: setup ## small versions of the main figures and claims (2 h 10 min on 2 cores; can be resumed)
	@$(foreach sweep,$(QUICK_SWEEPS),$(call TRAIN_PART,quick,$(sweep)) &&) true
	$(call PROBE,$(call PART,quick,inner_loss),inner_loss)
	$(call PROBE,$(call PART,quick,context_gain),context_gain,longest=8192)
	$(BIN)/ttt-bench inner inner_model=linear kernels=plain width=2048 heads=32 backward=false \
	  mini_batch_size=1,2,4,8,16,32,64,128,256,512,1024,2048 runs=$(LAPTOP_RUNS)
	$(BIN)/ttt-bench latency runs=$(LAPTOP_RUNS)
	@$(foreach sweep,$(QUICK_SWEEPS),$(call COLLECT,$(call PART,quick,$(sweep))) &&) true
	$(DRAW_LAPTOP)

night: laptop ## all claims: Table 1 with all rows and five seeds, contexts to 8k (10 h; can be resumed)
	@for sweep in $(NIGHT_SWEEPS); do $(call TRAIN,$$sweep) || exit; done
	$(call PROBE,inner_loss,inner_loss)
	$(call PROBE,context_gain,context_gain,longest=8192)
	@$(call TRAIN_PART,night,books_scaling)
	@for sweep in $(NIGHT_SWEEPS); do $(call COLLECT,$$sweep) || exit; done
	@$(call COLLECT,$(call PART,night,books_scaling))
	$(DRAW_LAPTOP)

whole: night ## every sweep for laptops whole: more figures, the largest size, the rates (3 h more; can be resumed)
	@for sweep in $(WHOLE_SWEEPS); do $(call TRAIN,$$sweep) && $(call COLLECT,$$sweep) || exit; done
	$(DRAW_LAPTOP)

hour: gpu-hour

gpu-hour: setup ## what fits into an hour of one GPU: rows 4 to 8 of Table 1, context at 8k, latency (can be resumed)
	$(call BUDGET,hour)

gpu-night: setup ## a night of one GPU: rows 5 to 8 at 125M; NIGHT=context_gain: contexts 1k to 16k (can be resumed)
	$(call BUDGET,night_$(NIGHT))

test: setup ## run all tests (15 minutes on 2 cores)
	$(PYTEST)

quick: setup ## run the tests that are not marked slow (a minute and a half on 2 cores): for use while working
	$(PYTEST) --numprocesses logical --maxprocesses 8 -m "not slow"

check: setup ## lint, format and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

gpu: ## on a machine with a CUDA device, which needs only PyTorch and Triton: compare and time the kernels (10 minutes)
	$(or $(wildcard $(BIN)/python),$(PYTHON)) -m ttt.bench.gpu

site: setup ## write the documents as pages into build/site, with their links checked (no network)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

arm: ## compile the CPU kernels for ARM and compare them with plain loops in an emulator (half a minute)
	@for program in $(firstword $(ARM_CXX)) $(firstword $(ARM_RUN)); do command -v $$program >/dev/null || \
	  { echo "make arm: $$program is missing; Debian: apt-get install g++-aarch64-linux-gnu qemu-user" >&2; exit 2; }; done
	@mkdir -p build
	$(ARM_CXX) $(ARM_FLAGS) -Ittt/kernels/cpu tests/kernels/plain_loops.cpp $(KERNELS) -o build/plain_loops
	$(ARM_RUN) build/plain_loops

lock: ## write uv.lock with the addresses of your package index, and compare its versions with constraints.txt (needs uv)
	@command -v $(UV) >/dev/null || { echo "make lock: $(UV) is missing; pip install uv" >&2; exit 2; }
	$(UV) lock --quiet
	$(PYTHON) .ci/check_lock.py

clean: ## remove .venv and caches; runs and figures stay
	rm -rf .venv .pytest_cache .ruff_cache .mypy_cache .hypothesis build *.egg-info
