# Everything runs in .venv, which the first target that needs it makes.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test check video format clean

demo: .venv/installed  ## set up, then segment the example picture
	$(BIN)/sam4mllm segment examples/scene.png "the ring below the orange circle" --out out
	@echo "look at out/overlay.png"

test: .venv/tested check video  ## set up, then check everything

check: .venv/tested  ## format, lint, types and tests
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	rm -rf .venv/typed && mkdir -p .venv/typed/sam4mllm_tool  # as it is installed: agents/ under the package
	ln -s $(CURDIR)/sam4mllm_tool/* $(CURDIR)/agents .venv/typed/sam4mllm_tool/
	cd .venv/typed && ../bin/mypy --config-file ../../pyproject.toml
	$(BIN)/pytest $(PYTEST)

video: .venv/video  ## what is tested of model families whose processors need torchvision
	PYTHONPATH=.venv/video $(BIN)/pytest tests/training/test_video_families.py

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

.venv/video: .venv/tested  # beside the others: torchvision's import fails where torch is built for the CPU alone
	$(BIN)/pip install -qq --no-deps --target $@ --constraint constraints.txt torchvision num2words docopt
