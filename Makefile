# Two commands do everything on a fresh machine: `make pretrain` and `make test`.
# Both create .venv through constraints.txt on first use.

PYTHON ?= python3
VENV   ?= .venv
BIN     = $(VENV)/bin
PYTEST  = $(BIN)/python -m pytest

# Two test processes with one thread each: many small parallel regions on busy cores are slower
# than none. Recipes keep all cores.
ONE_THREAD = OMP_NUM_THREADS=1

# Threads that wait may spin for some microseconds, then must sleep. Measured on two cores, in
# tokens/s of cpu_tiny: spinning as long as OpenMP likes 6.5 k, never spinning 3.8 k, this 7.3 k;
# with one core busy elsewhere 1.7 k (at times a hundred), and this 2.4 k.
PATIENT = GOMP_SPINCOUNT=10000

.PHONY: pretrain test setup setup-dev lint unit interpret aot docs bench gpu-check clean

pretrain: setup          ## pretrain a small language model on real text, save, reload, generate
	$(PATIENT) $(BIN)/accelerate launch --config_file recipes/accelerate/single_cpu.yaml \
		recipes/language_pretraining/train.py recipes/language_pretraining/configs/cpu_tiny.yaml \
		$(ARGS)

test: lint unit interpret aot docs   ## everything that needs no GPU

lint: setup-dev          ## style, formatting, types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python

unit: setup-dev          ## CPU kernels, layers, models, data, training
	$(ONE_THREAD) $(PYTEST) -n 2 -m "not aot" --ignore tests/docs

interpret: setup-dev     ## Triton kernels in Triton's CPU interpreter
	$(ONE_THREAD) TRITON_INTERPRET=1 $(PYTEST) -n 2 -m interpret tests/kernels

aot: setup-dev           ## every kernel and launch row, compiled ahead of time for four GPU targets
	$(ONE_THREAD) $(PYTEST) -n 2 -m aot tests/aot

docs: setup-dev          ## the pages: snippets run, links, paths, commands and speeds are true
	$(ONE_THREAD) $(PYTEST) tests/docs

bench: setup-dev         ## CPU benchmark against the peers that are installed
	$(BIN)/python -m bench run --suite cpu $(ARGS)

gpu-check: setup-dev     ## on a machine with a GPU: GPU tests, kernel self-check, quick benchmark
	$(BIN)/python -m bench gpu-check --out $(or $(GPU_OUT),outputs/gpu-check) $(ARGS)

setup: $(VENV)/.installed
setup-dev: $(VENV)/.installed-dev

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: $(BIN)/python pyproject.toml constraints.txt
	$(BIN)/python -m pip install -q -c constraints.txt -e .
	touch $@

$(VENV)/.installed-dev: $(BIN)/python pyproject.toml constraints.txt
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[dev]'
	touch $@ $(VENV)/.installed

clean:                   ## remove the environment and everything that was made
	rm -rf $(VENV) outputs build dist bench/out
