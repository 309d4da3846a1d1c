"""One name for one thing: classes, modules and variables of the package and the agents."""

import ast
from collections import Counter, defaultdict
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PATHS = sorted([*(ROOT / "sam4mllm_tool").rglob("*.py"), *(ROOT / "agents").rglob("*.py")])
VAGUE = {"told", "thing", "things", "found", "asked", "seen", "said", "heard", "one", "another", "alike", "likely"}
"""Variable names that don't say what they hold."""
SHARED_STEMS = {
    "__init__": "packages",
    "config": "each of evaluation, training and the package has its settings there",
    "transformers": "the backends of the library of that name, one for MLLMs and one for segmenters",
    "chat": "the agent, and the command that talks to it",
    "trace": "the command is named like the package that it shows",
    "pictures": "the old names of two modules, for one release",
    "image_blocks": "the module of the tools, and its old place among the agents, for one release",
}
"""File names that may stand in two packages, with the reason."""


@cache
def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def test_no_two_classes_share_a_name() -> None:
    places = defaultdict(list)
    for path in PATHS:
        for node in parse(path).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                places[node.name].append(str(path.relative_to(ROOT)))
    assert {name: paths for name, paths in places.items() if len(paths) > 1} == {}


def test_no_file_name_stands_in_two_packages_without_a_reason() -> None:
    places = defaultdict(list)
    for path in PATHS:
        places[path.stem].append(str(path.relative_to(ROOT)))
    assert {stem: paths for stem, paths in places.items() if len(paths) > 1 and stem not in SHARED_STEMS} == {}


def test_no_two_files_of_tests_share_a_name() -> None:
    """pytest imports them by their names alone."""
    names = Counter(path.name for path in (ROOT / "tests").rglob("test_*.py"))
    assert [name for name, count in names.items() if count > 1] == []


@pytest.mark.parametrize("path", PATHS, ids=lambda path: str(path.relative_to(ROOT)))
def test_variables_say_what_they_hold(path: Path) -> None:
    names = set()
    for node in ast.walk(parse(path)):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        elif isinstance(node, ast.arg):
            names.add(node.arg)
    assert not names & VAGUE
