# Everything runs in .venv, which the first target that needs it makes. Versions come from constraints.txt.
PYTHON ?= python3
BIN := .venv/bin
WORKERS ?= auto
# Python compiles what is imported, and keeps it even where the environment says not to: each test starts many processes.
unexport PYTHONDONTWRITEBYTECODE
# Build environments don't see constraints by themselves, and would take the newest setuptools.
INSTALL := pip install -qq --no-compile --constraint constraints.txt --build-constraint constraints.txt
PINNED_TORCH = grep -E '^torch(vision)?==' constraints.txt
# One thread per worker: the workers share the cores. The tests of a file share what they need.
PYTEST_FAST := OMP_NUM_THREADS=1 python -m pytest -n $(WORKERS) --dist loadfile -m "not slow"

.PHONY: audit demo docs help-pages mcp-conformance ray sbom test test-hours test-slow test-newest test-oldest check lint types coverage video format lock clean

demo: .venv/installed  ## set up, then segment the example image
	$(BIN)/sam4mllm segment examples/scene.png "the mug with the spoon in it" --out out
	@echo "look at out/overlay.png"

test: .venv/tested  ## set up, then run all tests but the slow ones
	$(subst python,$(BIN)/python,$(PYTEST_FAST)) $(PYTEST)

test-slow: .venv/tested video .venv/ray/made  ## set up, then run the slow tests, and those of batch jobs on Ray
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal -m "slow and not hours" $(PYTEST)
	OMP_NUM_THREADS=1 .venv/ray/bin/python -m pytest tests/cluster/test_ray_engine.py

test-hours: .venv/tested  ## soak the library and a server, and fuzz for as long as a release should stand
	$(BIN)/$(INSTALL) -r tests/fuzz/requirements.txt
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal -m hours $(PYTEST)

check: test lint types coverage test-slow docs  ## everything

# Apart from `test`, as measuring takes a third to a half more time.
COVERED := tests/protocol tests/images tests/pipeline tests/tools tests/server/test_tool_endpoint.py
coverage: .venv/tested  ## branches covered by the tests of the protocol, images, pipeline and tools
	$(subst python,$(BIN)/python,$(PYTEST_FAST)) $(COVERED) --hypothesis-profile few --cov

lint: .venv/tested  ## format and lint, of the code and of the files that run the server
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	BIN=$(BIN) scripts/lint_deploy.sh

types: .venv/tested  ## types of the package, and of what the tests share
	rm -rf .venv/typed && mkdir -p .venv/typed/sam4mllm_tool  # as it is installed: agents/ under the package
	ln -s $(CURDIR)/sam4mllm_tool/* $(CURDIR)/agents .venv/typed/sam4mllm_tool/
	ln -s $(CURDIR)/tests $(CURDIR)/recipes .venv/typed/
	cd .venv/typed && ../bin/mypy --cache-dir ../mypy_cache --config-file ../../pyproject.toml

video: .venv/video  ## tests that `make test` skips: of model families whose processors need torchvision, and of LabelMe's reader; the longest first
	OMP_NUM_THREADS=1 PYTHONPATH=.venv/video $(BIN)/python -m pytest -n $(WORKERS) --dist loadscope -m skipif tests/models/segmenter/test_segment_anything.py tests/training/test_video_families.py tests/models/mllm/test_video_mllms.py tests/pipeline/test_forward_counts.py tests/models/mllm/test_image_preparation.py tests/models/segmenter/test_sam2_families.py tests/testing/test_conforming_sam_backends.py tests/images/test_labelme_reader.py

ray: .venv/ray/made  ## all tests on a Ray cluster, which they start
	OMP_NUM_THREADS=1 .venv/ray/bin/python -m pytest tests/cluster

test-newest: .venv-newest/tested  ## the tests on the newest versions of everything but torch
	$(subst python,.venv-newest/bin/python,$(PYTEST_FAST)) $(PYTEST)

test-oldest: .venv-oldest/tested  ## the tests on the oldest versions that pyproject.toml allows
	$(subst python,.venv-oldest/bin/python,$(PYTEST_FAST)) $(PYTEST)

help-pages: .venv/tested  ## write the help pages into docs/command_line.md
	$(BIN)/python scripts/command_line_docs.py

mcp-conformance: .venv/tested  ## the MCP server against the protocol's official runner; needs Node.js 22
	scripts/mcp_conformance.sh

docs: .venv/docs  ## build the documentation into site/; a broken link or reference fails
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

format: .venv/tested  ## rewrite the code as `lint` wants it
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

lock:  ## renew constraints.txt
	$(PYTHON) scripts/lock.py

sbom: .venv/release  ## list what is installed, in CycloneDX's format, into sbom.json
	$(BIN)/cyclonedx-py requirements constraints.txt --pyproject pyproject.toml --output-file sbom.json

audit: .venv/release  ## known vulnerabilities of the pinned versions; asks PyPI's advisory database
	$(BIN)/pip-audit --requirement constraints.txt --no-deps --disable-pip --strict

clean:
	rm -rf .venv .venv-newest .venv-oldest out site

.venv/created:
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -qq --upgrade --constraint constraints.txt pip
	touch $@

.venv/installed: .venv/created pyproject.toml setup.py constraints.txt
	$(BIN)/$(INSTALL) --editable .
	touch $@

.venv/tested: .venv/created pyproject.toml setup.py constraints.txt  # in one run of pip, of which each takes a while
	$(BIN)/$(INSTALL) --editable ".[test]"
	touch .venv/installed $@

.venv/docs: .venv/tested
	$(BIN)/$(INSTALL) --editable ".[docs]"
	touch $@

.venv/release: .venv/installed
	$(BIN)/$(INSTALL) --editable ".[release]"
	touch $@

.venv/video: .venv/tested  # beside the others: torchvision's import fails where torch is built for the CPU alone
	$(BIN)/$(INSTALL) --no-deps --target $@ torchvision num2words docopt timm segment-anything labelme loguru imgviz cmap

# An environment of its own that sees the packages of .venv: Ray brings uvloop, which would change how the server runs in all tests.
.venv/ray/made: .venv/tested
	$(PYTHON) -m venv --clear --without-pip .venv/ray
	$(BIN)/python -c 'import sysconfig; print("import site; site.addsitedir(%r)" % sysconfig.get_path("purelib"))' \
		> `.venv/ray/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))'`/base.pth
	$(BIN)/pip --python .venv/ray/bin/python install -qq --no-compile --constraint constraints.txt "ray[data,serve]"
	touch $@

.venv-newest/tested: pyproject.toml setup.py constraints.txt
	$(PYTHON) -m venv --clear .venv-newest
	.venv-newest/bin/python -m pip install -qq --upgrade pip
	$(PINNED_TORCH) > .venv-newest/torch.txt
	.venv-newest/bin/pip install -qq --constraint .venv-newest/torch.txt --editable ".[test]"
	touch $@

.venv-oldest/tested: pyproject.toml setup.py constraints.txt  # uv finds versions by pyproject.toml's floors; pip can't
	$(PYTHON) -m venv --clear .venv-oldest
	.venv-oldest/bin/python -m pip install -qq --upgrade --constraint constraints.txt pip uv
	.venv-oldest/bin/uv pip compile -q --python .venv-oldest/bin/python --resolution lowest-direct --no-annotate \
		--extra test pyproject.toml --output-file .venv-oldest/floors.txt
	.venv-oldest/bin/pip install -qq --constraint .venv-oldest/floors.txt --build-constraint constraints.txt --editable ".[test]"
	touch $@
