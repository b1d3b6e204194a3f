# Everything runs in .venv, which is made on first use. `make demo` and `make test` are all a newcomer needs.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test lint types docs results studies soak long foreign bench benchpage dist clean

demo: .venv/.installed
	$(BIN)/zoo compare gmm --data faithful

test: .venv/.tested
	$(BIN)/ruff check .
	$(BIN)/mypy
	OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadgroup

lint: .venv/.tested
	$(BIN)/ruff check .

types: .venv/.tested
	$(BIN)/mypy

docs: .venv/.tested
	$(BIN)/python docs/make_table.py
	$(BIN)/python docs/make_methods.py
	$(BIN)/python docs/make_registries.py
	OMP_NUM_THREADS=1 $(BIN)/python docs/make_verdict.py

results: .venv/.tested
	$(BIN)/python docs/make_results.py

studies: .venv/.tested
	$(BIN)/python docs/make_studies.py

soak: .venv/.tested
	ZOO_KILLS=200 ZOO_MUTATIONS=2000 OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadgroup \
		-k 'killed_at_any or mutated' tests/experiments/runs tests/zoo/datasets

long: .venv/.tested
	OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadgroup -m long

foreign: .venv/.tested
	OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 $(BIN)/python -m tests.foreign.run
	OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 $(BIN)/python -m tests.foreign.run_posteriors
	OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 $(BIN)/python -m tests.foreign.run_rungs
	OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 $(BIN)/python -m tests.foreign.run_recommend

bench: .venv/.bench
	$(BIN)/python -m benchmarks

benchpage: .venv/.bench
	$(BIN)/python -m benchmarks --out docs/benchmarks
	$(BIN)/python docs/make_benchmarks.py

dist: .venv/.tested
	$(BIN)/python -m build

.venv/.python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "error: expected Python 3.11 or later; got $$($(PYTHON) --version); set PYTHON=/path/to/python3.11"; exit 1; }
	$(PYTHON) -m venv .venv
	@touch $@

.venv/.installed: .venv/.python pyproject.toml constraints.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	@touch $@

.venv/.tested: .venv/.python pyproject.toml constraints.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch .venv/.installed $@

.venv/.bench: .venv/.tested
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[bench]'
	@touch $@

clean:
	rm -rf .venv dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
