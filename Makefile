# `make` lists the targets. The first one that needs it sets everything up in .venv (minutes); later
# runs redo only the steps whose inputs changed (seconds).

PYTHON ?= python3
TORCH ?= torch==2.13.0
ARGS ?=

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
CPP := $(shell find csrc tests -name '*.h' -o -name '*.cpp' -o -name '*.cuh' -o -name '*.cu')

.DEFAULT_GOAL := help
.PHONY: help setup train test sanitize lint format bench wheel clean missing

help:  ## list the targets
	@echo "usage: make TARGET [ARGS='--key=value ...'] [PYTHON=python3.12]"
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(VENV)/.native  ## create .venv: PyTorch, the locked packages, the native library

train: setup  ## train TinyKGAT at INT2 on ml-100k; ARGS='--epochs=5 --compress_bits=4' adds flags
	$(BIN)/python run_recbole_tinykg.py $(ARGS)

# Two processes of one thread: on tensors as small as the tests' threads mostly wait for each other. A file stays
# in one process, for what its tests share.
test: setup $(VENV)/.dev  ## run the tests; ARGS='-k quantizer' adds pytest flags
	OMP_NUM_THREADS=$${OMP_NUM_THREADS:-1} $(BIN)/python -m pytest -n 2 --dist loadfile $(ARGS)

# A copy of the package whose CPU library has AddressSanitizer and UndefinedBehaviorSanitizer; PyTorch
# and Python have neither, so the sanitizers come in by LD_PRELOAD and leaks are not looked for.
SANITIZERS := -O1 -g1 -fno-omit-frame-pointer -fsanitize=address,undefined -fno-sanitize-recover=all
# `-o pythonpath=tests` leaves out this folder, whose library has no sanitizers.
SANITIZED := $(addprefix tests/ops/test_,activation.py arguments.py dequantize.py normalize.py properties.py \
  quantize.py spmm.py spmm_backward.py instruction_sets.py)
sanitize: setup $(VENV)/.dev  ## run the operators' tests on a library with ASan and UBSan (GCC)
	CXX=g++ CXXFLAGS="$(SANITIZERS)" RECBOLE_TINYKG_CUDA=0 $(BIN)/python setup.py -q build \
	  --build-base build/sanitize --build-lib build/sanitize/lib
	LD_PRELOAD="$$(g++ -print-file-name=libasan.so) $$(g++ -print-file-name=libubsan.so)" \
	  ASAN_OPTIONS=detect_leaks=0 PYTHONPATH=build/sanitize/lib OPERATOR_EXAMPLES=15 OMP_NUM_THREADS=2 \
	  $(BIN)/pytest -q -o pythonpath=tests -k "not two_to_the_31" $(SANITIZED)

lint: setup $(VENV)/.dev  ## ruff, mypy and clang-format, changing nothing
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(if $(CPP),$(BIN)/clang-format --dry-run -Werror $(CPP))

format: $(VENV)/.dev  ## let ruff and clang-format rewrite the sources
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(if $(CPP),$(BIN)/clang-format -i $(CPP))

bench: setup $(VENV)/.dev  ## bytes and seconds against stock (25 minutes); ARGS='--models TinyKGCN'
	$(BIN)/python -m benchmarks.suite.run $(ARGS)

wheel: setup $(VENV)/.dev  ## build dist/*.tar.gz, and from it dist/*.whl
	rm -rf dist
	$(BIN)/python -m build --no-isolation

clean:  ## remove .venv and everything that was built
	rm -rf $(VENV) build dist *.egg-info recbole_tinykg/*.so
	rm -rf .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Each stamp below stands for one finished step of the set-up.

$(VENV)/.python:
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null || { \
	  echo "error: recbole_tinykg needs Python 3.11, 3.12 or 3.13 and $(PYTHON) is none of them;" \
	    "name one: make PYTHON=python3.12"; exit 1; }
	@for cxx in $${CXX:-c++ g++ clang++}; do command -v "$$cxx" >/dev/null && exit; done; \
	  echo "error: recbole_tinykg needs a C++20 compiler (GCC 11 or Clang 14 or newer)" \
	    "and found no $${CXX:-c++, g++ or clang++}; install one or name it in CXX"; exit 1
	$(PYTHON) -m venv --clear $(VENV)
	@touch $@

$(VENV)/.torch: $(VENV)/.python
	$(PIP) install "$(TORCH)"
	@touch $@

$(VENV)/.lock: requirements.lock $(VENV)/.torch
	$(PIP) install --no-deps -r requirements.lock
	@touch $@

$(VENV)/.native: setup.py pyproject.toml $(CPP) $(VENV)/.lock
$(VENV)/.native: $(if $(wildcard recbole_tinykg/_native_cpu.so),,missing)
	$(PIP) install --no-build-isolation --no-deps -e .
	@touch $@

$(VENV)/.dev: requirements-dev.lock $(VENV)/.lock
	$(PIP) install --no-deps -r requirements-dev.lock
	@touch $@
