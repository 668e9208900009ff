# make run    the finserve job in a virtual environment of its own, cut to end within half an hour (MINUTES)
# make test   the tests
# make check  lint, format, types, and known weaknesses of what is installed
# make matrix every architecture with every method at every precision, on tiny models
# make torture kills, full disks and damaged files, each finished by the same command (an hour on two cores)
# make sbom   all that is installed, with versions and licences, as CycloneDX (sbom.json)
# make bench  speed beside TRL, bitsandbytes and generate; growth; where the time goes (about half an hour)

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
RECIPE ?= recipes/finserve.py
ARGS ?=
# Of the run; installation and download come on top. A run that is gone on with keeps the minutes it was begun with.
MINUTES ?= 26

.PHONY: run test check matrix torture bench sbom format clean

run: $(VENV)/run
	$(BIN)/python -m workbench.run $(if $(findstring --resume,$(ARGS)),,$(RECIPE) --minutes $(MINUTES)) $(ARGS)

test: $(VENV)/dev
	$(BIN)/python -m pytest -q --numprocesses logical --maxprocesses 4 --dist worksteal

check: $(VENV)/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pip check
	$(BIN)/python tools/audit.py

sbom: $(VENV)/dev
	$(BIN)/cyclonedx-py environment --output-reproducible --pyproject pyproject.toml -o sbom.json $(BIN)/python

torture: $(VENV)/dev
	$(BIN)/python tests/torture.py $(ARGS)

matrix: $(VENV)/dev
	$(BIN)/python tests/matrix.py $(ARGS)
	$(if $(ARGS),,TORCHDYNAMO_DISABLE=1 $(BIN)/python tests/matrix.py --fake-device)

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

# Every archive is held against the checksum in these files, but what TORCH_INDEX gives; none is built but what has no
# wheel.
# --no-compile: of the modules installed a run imports a few, and Python compiles those by itself.
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile --no-deps
LOCKED := $(PIP) --require-hashes --only-binary :all:
NEEDS_CUDA := import sys; from importlib.metadata import requires; sys.exit(not any("nvidia" in r for r in requires("torch")))

# An index that TORCH_INDEX names is asked for PyTorch alone, and for nothing else. Without one a build for a CPU is taken
# if pip is told of a place that has it, else PyPI's.
$(VENV)/run: requirements-torch-cpu.txt requirements-torch.txt requirements-cuda.txt requirements.txt requirements-source.txt pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(if $(TORCH_INDEX),$(PIP) --index-url $(TORCH_INDEX) $(shell grep -o '^torch==[^ ]*' requirements-torch.txt),$(LOCKED) -r requirements-torch-cpu.txt 2>/dev/null || $(LOCKED) -r requirements-torch.txt)
	if $(BIN)/python -c '$(NEEDS_CUDA)'; then $(LOCKED) -r requirements-cuda.txt; fi
	$(LOCKED) -r requirements.txt
	$(PIP) --require-hashes --no-build-isolation -r requirements-source.txt
	$(PIP) --no-build-isolation --editable .
	touch $@

$(VENV)/dev: $(VENV)/run requirements-dev.txt
	$(LOCKED) -r requirements-dev.txt
	touch $@

clean:
	rm -rf $(VENV) build *.egg-info .mypy_cache .ruff_cache .pytest_cache
