"""Mutation testing: `python -m tests.mutation.run protocol images --sample 200` says how many small faults the tests notice.

First the tests run once, and coverage notes which of them run each line. Then each mutant of a sample takes the place of its
module in a process of its own, and the tests that run its line are run until one fails. A mutant that no test notices survives;
survivors are listed. Some of them do what the original does.
"""

import argparse
import importlib
import importlib.abc
import importlib.util
import os
import random
import subprocess
import sys
import time
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType

import pytest
from coverage import CoverageData

from tests.mutation.mutants import Mutant, list_mutants

_ROOT = Path(__file__).parents[2]
_PARTS = {
    "protocol": (["sam4mllm_tool/protocol"], ["tests/protocol", "tests/pipeline/test_sam4mllm.py"]),
    "images": (["sam4mllm_tool/images"], ["tests/images"]),
    "fetch": (["sam4mllm_tool/images/fetch.py"], ["tests/images/test_fetch.py", "tests/images/test_forbidden_addresses.py"]),
}
"""What is mutated, and the tests that are to notice it."""
_LONGEST_S = 60
"""A mutant whose tests take longer loops, and counts as noticed."""
_MOST_TESTS = 60
_OPTIONS = ("-q", "-x", "-p", "no:cacheprovider", "-p", "no:xdist", "-W", "ignore", "--no-header", "-o", "addopts=")


class _MutantLoader(importlib.abc.SourceLoader):
    """Loads one module from the source of a mutant."""

    def __init__(self, path: str, source: str) -> None:
        self._path, self._source = path, source

    def get_filename(self, fullname: str) -> str:  # noqa: ARG002
        """Return the path of the original."""
        return self._path

    def get_data(self, path: str | bytes) -> bytes:  # noqa: ARG002
        """Return the mutant's source."""
        return self._source.encode()

    def path_stats(self, path: str) -> dict[str, float]:
        """Say that nothing is known of the file, so that no compiled file is used or written."""
        raise OSError(path)


class _MutantFinder(importlib.abc.MetaPathFinder):
    def __init__(self, name: str, path: Path, source: str) -> None:
        self._name, self._path, self._source = name, path, source

    def find_spec(self, fullname: str, path: object, target: ModuleType | None = None) -> ModuleSpec | None:  # noqa: ARG002
        """Return the mutant in the place of its module."""
        if fullname != self._name:
            return None
        is_package = self._path.name == "__init__.py"
        places = [str(self._path.parent)] if is_package else None
        loader = _MutantLoader(str(self._path), self._source)
        return importlib.util.spec_from_file_location(fullname, self._path, loader=loader, submodule_search_locations=places)


def _measure_coverage(sources: Sequence[str], tests: Sequence[str], file: Path) -> CoverageData:
    """Run the tests once, and return which of them run each line."""
    config = file.with_suffix(".ini")
    include = ",".join(f"{source}/*" if Path(_ROOT / source).is_dir() else source for source in sources)
    command = [sys.executable, "-m", "pytest", *_OPTIONS, "-m", "not slow", *tests, f"--cov-config={config}", "--cov"]
    command += ["--cov-context=test", "--cov-report="]
    config.write_text(f"[run]\ninclude = {include.replace(',', chr(10) + '    ')}\n", encoding="utf-8")
    subprocess.run(command, cwd=_ROOT, env={**os.environ, "COVERAGE_FILE": str(file)}, check=True, stdout=subprocess.DEVNULL)
    data = CoverageData(str(file))
    data.read()
    return data


def _find_tests(data: CoverageData, path: Path, line: int, tests: Sequence[str]) -> list[str]:
    """Return the tests that run a line; of a line that runs on import, the whole files."""
    contexts = data.contexts_by_lineno(str(path)).get(line, [])
    names = sorted({context.partition("|")[0] for context in contexts if context})
    if not names and contexts:
        return list(tests)
    return random.Random(line).sample(names, min(len(names), _MOST_TESTS))


def _is_noticed(module: str, path: Path, mutant: Mutant, tests: Sequence[str]) -> bool:
    """Run the tests on a mutant in a forked process; return whether one failed."""
    child = os.fork()
    if child == 0:
        devnull = os.open(os.devnull, os.O_RDWR)
        for descriptor in (0, 1, 2):
            os.dup2(devnull, descriptor)
        sys.meta_path.insert(0, _MutantFinder(module, path, mutant.source))
        try:
            os._exit(1 if pytest.main([*_OPTIONS, "-m", "not slow", *tests]) else 0)
        except BaseException:  # noqa: BLE001  # whatever it is, the mutant is noticed
            os._exit(1)
    end = time.monotonic() + _LONGEST_S
    while time.monotonic() < end:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return status != 0
        time.sleep(0.01)
    os.kill(child, 9)
    os.waitpid(child, 0)
    return True


def _run_part(part: str, sample: int, seed: int, folder: Path) -> None:
    sources, tests = _PARTS[part]
    data = _measure_coverage(sources, tests, folder / f"{part}.coverage")
    paths = [
        path
        for source in sources
        for path in ([_ROOT / source] if source.endswith(".py") else sorted((_ROOT / source).rglob("*.py")))
    ]
    everything = [(path, mutant) for path in paths for mutant in list_mutants(path.read_text(encoding="utf-8"))]
    chosen = random.Random(seed).sample(everything, min(sample, len(everything)))
    survivors = []
    for path, mutant in chosen:
        module = str(path.relative_to(_ROOT).with_suffix("")).replace("/", ".").removesuffix(".__init__")
        running = _find_tests(data, path, mutant.line, tests)
        if not running or not _is_noticed(module, path, mutant, running):
            survivors.append((path, mutant))
            print(f"survives: {path.relative_to(_ROOT)}:{mutant.line}: {mutant.change}", flush=True)
    share = 1 - len(survivors) / len(chosen)
    print(f"{part}: {share:.1%} of {len(chosen)} mutants noticed, drawn from {len(everything):,}", flush=True)


def main() -> None:
    """Measure the parts that are named."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", default=list(_PARTS), help=" ".join(_PARTS))
    parser.add_argument("--sample", type=int, default=200, help="mutants per part")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    for name in ("torch", "PIL.Image", "hypothesis", "pydantic", "httpx", "httpcore", "typer", "rich"):
        importlib.import_module(name)  # before forking, so that it takes its time once
    sys.dont_write_bytecode = True
    with TemporaryDirectory() as folder:
        for part in options.parts:
            _run_part(part, options.sample, options.seed, Path(folder))


if __name__ == "__main__":
    main()
