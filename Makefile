# Everything runs in .venv, which the first target that needs it makes.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test check format clean

demo: .venv/installed  ## set up, then segment the example picture
	$(BIN)/sam4mllm segment examples/scene.png "the ring below the orange circle" --out out
	@echo "look at out/overlay.png"

test: .venv/tested check  ## set up, then check everything

check: .venv/tested  ## format, lint, types and tests
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/pytest $(PYTEST)

format: .venv/tested  ## rewrite the code as `check` wants it
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf .venv out

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install -qq --upgrade pip
	$(BIN)/pip install -qq --constraint constraints.txt --editable .
	touch $@

.venv/tested: .venv/installed
	$(BIN)/pip install -qq --constraint constraints.txt --editable ".[test]"
	touch $@
