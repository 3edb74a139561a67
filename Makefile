# Two commands set up everything on a machine with Python >= 3.11 and a network for pip:
#   make run    own .venv, install, then the main job
#   make test   own .venv, install, then the tests
# make web shows the embedded model in a browser.
# For developers: make format, make lint, make types, make test-fast, make docs.
PYTHON ?= python3
BIN := .venv/bin
RECIPE ?= recipes/passionsr_fast_w8a8.yaml

.PHONY: run web test test-fast test-all plan format lint types wheel docs clean

# Hundreds of processes import the same files; each would compile them where this is set.
unexport PYTHONDONTWRITEBYTECODE

run: .venv/installed
	$(BIN)/python -m compress.run $(RECIPE)
	$(BIN)/python -m compress.upscale runs/$(basename $(notdir $(RECIPE))) \
	    "$$($(BIN)/python -c 'import skimage.data as d; print(d.__path__[0])')/chelsea.png" \
	    -o runs/upscaled/$(basename $(notdir $(RECIPE))) --existing skip

# A page with the embedded AdcSR nano, at http://127.0.0.1:8000/. Needs npm, for onnxruntime-web.
web: .venv/installed
	npm i --ignore-scripts --prefix build/npm onnxruntime-web@$$($(BIN)/python -c \
	    'from export.targets.web_engine import pinned; print(pinned())')
	$(BIN)/python -m export.run compress/assets/adcsr_nano.safetensors --target web \
	    --engine-dir build/npm -o build/web
	$(BIN)/python -m export.serve build/web

# One thread for each of the workers: two pools of spinning threads on the same cores are slower
# than one.
test: .venv/installed
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist worksteal -m "not exhaustive"

# Without what a whole model has to be compressed, trained or exported for: minutes less.
test-fast: .venv/installed
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist worksteal -m "not slow"

# With the tests that are marked exhaustive as well.
test-all: .venv/installed
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist worksteal

format: .venv/installed
	$(BIN)/python -m ruff format .
	$(BIN)/python -m ruff check --fix .

lint: .venv/installed
	$(BIN)/python -m ruff format --check .
	$(BIN)/python -m ruff check .
	$(BIN)/python -m codespell_lib compress export eval recipes docs \
	    README.md AGENTS.md CONTRIBUTING.md CHANGELOG.md

types: .venv/installed
	$(BIN)/python -m mypy

wheel: .venv/installed
	.ci/try_wheel

# The reference from the configs, then the site in build/site. The builder has its own environment.
docs: .venv/installed .venv-docs/installed
	$(BIN)/python -m compress.reference
	.venv-docs/bin/zensical build --clean --strict

plan: .venv/installed
	$(BIN)/python -m compress.run $(RECIPE) --plan

# torch before everything else: a later unpinned requirement would pull another build of several
# gigabytes. Then all cores compile, where pip would use one; not every file of a library compiles.
.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and \
	    "Python 3.11 or later is needed; set PYTHON=")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --no-compile -c constraints.txt torch torchvision
	$(BIN)/python -m pip install --quiet --no-compile -c constraints.txt -e '.[test,dev]'
	$(BIN)/python -m compileall -qq -j 0 -x '/tests?/' .venv/lib || true
	touch $@

.venv-docs/installed: pyproject.toml
	$(PYTHON) -m venv .venv-docs
	.venv-docs/bin/python -m pip install --quiet 'zensical>=0.0.73,<0.2'
	touch $@

clean:
	rm -rf .venv .venv-docs runs build *.egg-info
