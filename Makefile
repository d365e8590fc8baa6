# make run: the dashboard on the shipped demo.  make test: the whole suite.  Both install what they need first,
# and the package itself, so that .venv/bin/nnguide and "import nnguide_core" work from any folder.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --editable .
COMPILE := $(BIN)/python -c "import umap" # once and for all, or the first map would wait for it
ONE_CORE := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 # each: with two threads, two processes at once take over twice as long

.PHONY: run test explore install lint types format bench hardening clean

run: $(VENV)/run.stamp
	$(BIN)/streamlit run app.py

test: $(VENV)/dev.stamp
	scripts/get_chromium.sh $(BIN)
	$(ONE_CORE) $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder -q

explore: $(VENV)/dev.stamp
	for round in 1 2 3 4 5; do $(BIN)/python -m pytest -m hypothesis --hypothesis-profile=explore -n 2 -q || exit; done

install: $(VENV)/dev.stamp

lint: $(VENV)/dev.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(VENV)/dev.stamp
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: $(VENV)/dev.stamp
	$(BIN)/mypy

bench: $(VENV)/dev.stamp
	$(BIN)/python -m benchmarks

hardening: $(VENV)/dev.stamp
	scripts/get_chromium.sh $(BIN)
	$(BIN)/python -m hardening

clean:
	rm -rf $(VENV) build dist *.egg-info

$(VENV)/bin/python:
	scripts/make_venv.sh $(PYTHON) $(VENV)

$(VENV)/run.stamp: pyproject.toml requirements.txt | $(VENV)/bin/python
	$(INSTALL)
	$(COMPILE)
	touch $@

$(VENV)/dev.stamp: pyproject.toml requirements.txt requirements-dev.txt | $(VENV)/bin/python
	$(INSTALL) -r requirements-dev.txt
	$(COMPILE)
	touch $@ $(VENV)/run.stamp
