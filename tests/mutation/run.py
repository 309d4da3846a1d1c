"""Mutation testing: `python -m tests.mutation.run protocol images --sample 200` says how many small faults the tests notice.

First the tests run once, and coverage notes which of them run each line and how long they take. Then each mutant of a sample
takes the place of its module in a process of its own, and the tests that run its line are run until one fails: those first
that run the least besides, and no more than take some seconds. A mutant that no test notices survives; survivors are listed
with their number in the sample. Some of them do what the original does.

Everything else is imported and compiled before the processes are forked. Time is counted while this process runs, so that it
may be stopped and continued.
"""

import argparse
import gc
import importlib.abc
import importlib.util
import os
import random
import re
import subprocess
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
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
_TESTS_S = 20.0
"""Tests that take longer together, as they were measured, are not run on one mutant."""
_LOOP_S = 20.0
"""A mutant whose tests take this much longer than they should loops, and counts as noticed."""
_POLL_S = 0.01
_REPORTED = 25
"""After so many mutants it is said how many survive."""
_OPTIONS = ("-q", "-x", "-p", "no:cacheprovider", "-p", "no:xdist", "--no-header", "-m", "not slow")
_QUIET = ("-W", "ignore::pytest.PytestAssertRewriteWarning", "-W", "ignore::coverage.exceptions.CoverageWarning")


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
    def __init__(self, path: Path, source: str) -> None:
        relative = path.relative_to(_ROOT).with_suffix("")
        self._name = ".".join(relative.parts).removesuffix(".__init__")
        self._path, self._source = path, source

    def find_spec(self, fullname: str, path: object, target: ModuleType | None = None) -> ModuleSpec | None:  # noqa: ARG002
        """Return the mutant in the place of its module."""
        if fullname != self._name:
            return None
        is_package = self._path.name == "__init__.py"
        places = [str(self._path.parent)] if is_package else None
        loader = _MutantLoader(str(self._path), self._source)
        return importlib.util.spec_from_file_location(fullname, self._path, loader=loader, submodule_search_locations=places)


@dataclass(frozen=True)
class _Measured:
    """What running the tests once has shown.

    Attributes:
        tests: By path and line number, the tests that run it.
        seconds: By test, how long it takes.
        breadths: By test, how many lines it runs.
    """

    tests: Mapping[Path, Mapping[int, frozenset[str]]]
    seconds: Mapping[str, float]
    breadths: Mapping[str, int]

    def choose_tests(self, path: Path, mutant: Mutant) -> list[str]:
        """Return the tests to run on a mutant, the most specific first.

        They are those that run its line; if it runs on import, those that run a line which names what is defined there, or
        else any line of the module, or else all.
        """
        running = self.tests.get(path, {})
        lines = path.read_text(encoding="utf-8").splitlines()
        names = re.compile(rf"\b({'|'.join(map(re.escape, mutant.names))})\b") if mutant.names else re.compile("$^")
        tests = frozenset().union(*(running.get(line, frozenset()) for line in mutant.lines))
        tests = tests or frozenset().union(*(running[line] for line in running if names.search(lines[line - 1])))
        tests = tests or frozenset().union(*running.values()) or frozenset(self.seconds)
        chosen, seconds = [], 0.0
        for test in sorted(tests, key=lambda test: (self.breadths[test] * (0.05 + self.seconds[test]), test)):
            if (seconds := seconds + self.seconds[test]) > _TESTS_S:
                break
            chosen.append(test)
        return chosen


def _measure_tests(sources: Sequence[str], tests: Sequence[str], file: Path) -> _Measured:
    """Run the tests once."""
    include = "".join(f"\n    {source}/*" if Path(_ROOT / source).is_dir() else f"\n    {source}" for source in sources)
    config = file.with_suffix(".ini")
    config.write_text(f"[run]\ninclude = {include}\n", encoding="utf-8")
    command = [sys.executable, "-m", "pytest", *_OPTIONS, *_QUIET, *tests, f"--cov-config={config}", "--cov"]
    command += ["--cov-context=test", "--cov-report=", "--durations=0", "--durations-min=0", "-vv"]
    environment = {**os.environ, "COVERAGE_FILE": str(file)}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    run = subprocess.run(command, cwd=_ROOT, env=environment, check=False, stdout=subprocess.PIPE, text=True)
    if run.returncode:
        raise SystemExit(f"the tests fail without any fault:\n{run.stdout[-2000:]}")
    seconds: defaultdict[str, float] = defaultdict(float)
    for number, name in re.findall(r"^([\d.]+)s (?:setup|call|teardown) +(\S.*)$", run.stdout, re.MULTILINE):
        seconds[name] += float(number)
    data = CoverageData(str(file))
    data.read()
    by_path: dict[Path, dict[int, frozenset[str]]] = {}
    breadths: Counter[str] = Counter(dict.fromkeys(seconds, 0))
    for path in data.measured_files():
        contexts = data.contexts_by_lineno(path)
        by_line = {line: frozenset(_name_tests(names)) & seconds.keys() for line, names in contexts.items()}
        by_path[Path(path)] = {line: names for line, names in by_line.items() if names}
        breadths.update(name for names in by_line.values() for name in names)
    return _Measured(by_path, dict(seconds), breadths)


def _name_tests(contexts: Sequence[str]) -> set[str]:
    return {context.rpartition("|")[0] for context in contexts if context}


def _import_everything_else(tests: Sequence[str]) -> None:
    """Import what the tests import, and forget what is of this repository."""
    devnull = os.open(os.devnull, os.O_RDWR)
    kept = os.dup(1)
    os.dup2(devnull, 1)
    pytest.main([*_OPTIONS, *_QUIET, "--collect-only", *tests])
    os.dup2(kept, 1)
    for name, module in list(sys.modules.items()):
        if _is_own(module) and not name.startswith(("tests.mutation", "tests.torchvision_operators", "__main__")):
            del sys.modules[name]  # but for operators, which can be declared only once
    gc.collect()
    gc.freeze()  # pytest collects garbage several times, and would look through all of it


def _is_own(module: ModuleType) -> bool:
    file = Path(getattr(module, "__file__", None) or os.devnull)
    return file.is_relative_to(_ROOT) and not file.is_relative_to(_ROOT / ".venv")


def _is_noticed(path: Path, source: str, tests: Sequence[str], longest_s: float) -> bool:
    """Run tests on a module's source in a forked process; return whether one failed."""
    child = os.fork()
    if child == 0:
        devnull = os.open(os.devnull, os.O_RDWR)
        for descriptor in (0, 1, 2):
            os.dup2(devnull, descriptor)
        sys.meta_path.insert(0, _MutantFinder(path, source))
        try:
            os._exit(1 if pytest.main([*_OPTIONS, *_QUIET, *tests]) else 0)
        except BaseException:  # noqa: BLE001  # whatever it is, the mutant is noticed
            os._exit(1)
    for _ in range(round(longest_s / _POLL_S)):
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return status != 0
        time.sleep(_POLL_S)
    os.kill(child, 9)
    os.waitpid(child, 0)
    return True


def _run_part(part: str, sample: int, seed: int, folder: Path) -> None:
    sources, tests = _PARTS[part]
    measured = _measure_tests(sources, tests, folder / f"{part}.coverage")
    _import_everything_else(tests)
    paths = [
        path
        for source in sources
        for path in ([_ROOT / source] if source.endswith(".py") else sorted((_ROOT / source).rglob("*.py")))
    ]
    originals = {path: path.read_text(encoding="utf-8") for path in paths}
    order = sorted(measured.seconds, key=lambda test: measured.breadths[test])
    if _is_noticed(paths[0], originals[paths[0]], order, 3 * sum(measured.seconds.values()) + _LOOP_S):
        raise SystemExit("the tests fail in another order, without any fault")
    everything = [(path, mutant) for path in paths for mutant in list_mutants(originals[path])]
    chosen = random.Random(seed).sample(everything, min(sample, len(everything)))
    survivors = 0
    for number, (path, mutant) in enumerate(chosen, start=1):
        running = measured.choose_tests(path, mutant)
        longest_s = 3 * sum(measured.seconds[test] for test in running) + _LOOP_S
        if not running or not _is_noticed(path, mutant.source, running, longest_s):
            survivors += 1
            line = originals[path].splitlines()[mutant.lines[0] - 1].strip()
            print(f"{number}: {path.relative_to(_ROOT)}:{mutant.lines[0]}: {mutant.change}: {line}", flush=True)
        if number % _REPORTED == 0:
            print(f"{part}: {survivors} of {number} survive", flush=True)
    share = 1 - survivors / len(chosen)
    print(f"{part}: {share:.1%} of {len(chosen)} mutants noticed, drawn from {len(everything):,}", flush=True)


def main() -> None:
    """Measure the parts that are named."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", default=list(_PARTS), help=" ".join(_PARTS))
    parser.add_argument("--sample", type=int, default=200, help="mutants per part")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    sys.dont_write_bytecode = False
    os.chdir(_ROOT)
    with TemporaryDirectory() as folder:
        os.environ["HYPOTHESIS_STORAGE_DIRECTORY"] = folder  # what fails on a mutant is not tried again on others
        for part in options.parts:
            _run_part(part, options.sample, options.seed, Path(folder))


if __name__ == "__main__":
    main()
