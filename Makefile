# Every target sets up what it needs: a virtual environment with the versions of constraints.txt.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.installed

.PHONY: run test test-long test-engines test-all lint types check format clean

# Tests start hundreds of processes. Each would compile our modules again where the environment forbids to keep them.
unexport PYTHONDONTWRITEBYTECODE

# These networks are so small that a second thread costs more than it saves, many times more on a busy machine.
test test-long test-engines test-all: export OMP_NUM_THREADS := 1

run: $(READY)
	$(BIN)/clbench run --suite permuted-digits --threads 1

test: $(READY)
	$(BIN)/python -m pytest -m "not slow and not long" -n 2 --dist loadfile

test-long: $(READY)
	$(BIN)/python -m pytest -m "long and not slow" -n 2 --dist load --durations=20

# With a real Slurm (Debian: slurmctld slurmd slurm-client munge) and a Ray cluster of two nodes, both on this machine.
# All of these tests are slow. Those that are long besides run with test-all alone.
test-engines: $(READY)
	$(BIN)/python -m pytest -m "not long" tests/engines/test_slurm.py tests/engines/test_ray.py

test-all: $(READY)
	$(BIN)/python -m pytest

lint: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: $(READY)
	$(BIN)/mypy

check: lint types test

format: $(READY)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "clbench needs Python 3.11 or newer; name one with: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	@echo "installing into $(VENV): a few minutes, about 7 GB with PyTorch's CUDA libraries"
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade -c constraints.txt pip
	$(BIN)/python -m pip install --quiet --no-compile -c constraints.txt -e '.[dev]'
	@# What pip would compile, on all cores. A package may hold a file for another Python, which fails to compile.
	@$(BIN)/python -m compileall -q -j 0 $(VENV)/lib > /dev/null || true
	touch $(READY)

clean:
	rm -rf $(VENV) build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
