# make run    the finserve job in a virtual environment of its own, cut to end within half an hour (MINUTES)
# make test   the tests
# make check  lint, format and types
# make matrix every architecture with every method at every precision, on tiny models
# make bench  speed beside TRL, bitsandbytes and generate; growth; where the time goes (about half an hour)

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
RECIPE ?= recipes/finserve.py
ARGS ?=
# Of the run; installation and download come on top. A run that is gone on with keeps the minutes it was begun with.
MINUTES ?= 26

.PHONY: run test check matrix bench format clean

run: $(VENV)/run
	$(BIN)/python -m workbench.run $(if $(findstring --resume,$(ARGS)),,$(RECIPE) --minutes $(MINUTES)) $(ARGS)

test: $(VENV)/dev
	$(BIN)/python -m pytest -q --numprocesses logical --maxprocesses 4 --dist worksteal

check: $(VENV)/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

matrix: $(VENV)/dev
	$(BIN)/python tests/matrix.py $(ARGS)

bench: $(VENV)/dev
	$(BIN)/python benchmarks/training.py --steps 2 --rounds 2
	$(BIN)/python benchmarks/training.py --steps 2 --rounds 2 --model gpt2
	$(BIN)/python benchmarks/training.py --steps 1 --rounds 2 --bits 8 4
	$(BIN)/python benchmarks/generation.py --prompts 80 --alone 2 --rounds 1
	$(BIN)/python benchmarks/neighbours.py --neighbours 0 1 --rounds 1
	$(BIN)/python benchmarks/choices.py --questions 128 --steps 0 --rounds 1
	$(BIN)/python benchmarks/whole_job.py
	$(BIN)/python benchmarks/growth.py --most 10000

format: $(VENV)/dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# --no-compile: of the modules installed a run imports a few, and Python compiles those by itself.
$(VENV)/run: requirements.txt pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)) -r requirements.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile --no-deps --no-build-isolation --editable .
	touch $@

$(VENV)/dev: $(VENV)/run requirements-dev.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile -r requirements-dev.txt
	touch $@

clean:
	rm -rf $(VENV) build *.egg-info .mypy_cache .ruff_cache .pytest_cache
