# Every target sets up what it needs: a virtual environment in .venv with the versions of constraints.txt.
# `make PYTHON=python3.12 test` uses another interpreter.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed
PIP := $(BIN)/python -m pip --disable-pip-version-check -q

.PHONY: demo test fast lint types docs bench systems clean

demo: $(STAMP)
	$(BIN)/pliant run digits --out demo-run --quick

test: $(STAMP)
	$(BIN)/python -m pytest

fast: $(STAMP)
	$(BIN)/python -m pytest -m "not slow"

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(STAMP)
	$(BIN)/mypy

docs: $(STAMP)
	$(BIN)/python tools/systems.py
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

systems: $(STAMP)
	$(BIN)/python tools/systems.py

bench: $(STAMP)
	$(BIN)/python -m benchmarks

clean:
	rm -rf build dist site .pytest_cache .mypy_cache .ruff_cache .hypothesis

# torch comes first, so that nothing else decides its version. The tests take networks from torchvision, which
# wants a build of itself that matches torch's; its Python files are enough here, hence --no-deps.
$(STAMP): pyproject.toml constraints.txt
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@echo "installing the versions of constraints.txt into .venv (once; a few minutes)"
	@$(PIP) install -c constraints.txt torch
	@$(PIP) install -c constraints.txt --no-deps torchvision
	@$(PIP) install -c constraints.txt -e '.[dev]'
	@touch $(STAMP)
