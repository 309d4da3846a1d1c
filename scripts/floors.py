"""Prints `name==floor` for each dependency that pyproject.toml declares with a floor, for `make test-oldest`.

    python scripts/floors.py [EXTRA ...]

Prints those of the base and of the extras named, including the extras that these name in turn.
"""

import re
import sys
import tomllib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

PYPROJECT = Path(__file__).parents[1] / "pyproject.toml"
_REQUIREMENT = re.compile(r"(?P<name>[A-Za-z0-9._-]+)(\[(?P<extras>[^]]*)\])?>=(?P<floor>[0-9][0-9.]*)")


def list_floors(project: dict[str, Any], extras: Iterable[str]) -> Iterator[str]:
    """Yield each dependency at its floor.

    Args:
        project: The `project` table of pyproject.toml.
        extras: Optional dependencies to include.

    Raises:
        ValueError: A dependency declares no floor.
    """
    own = f"{project['name']}["
    for requirement in [*project["dependencies"], *(r for extra in extras for r in project["optional-dependencies"][extra])]:
        if requirement.startswith(own):
            nested = requirement.removeprefix(own).rstrip("]").split(",")
            yield from list_floors({**project, "dependencies": []}, nested)
        elif match := _REQUIREMENT.match(requirement):
            marks = f"[{match['extras']}]" if match["extras"] else ""
            yield f"{match['name']}{marks}=={match['floor']}"
        else:
            raise ValueError(f"expected NAME>=FLOOR, got {requirement!r}")


if __name__ == "__main__":
    table = tomllib.loads(PYPROJECT.read_text(encoding="utf-8"))["project"]
    print("\n".join(sorted(set(list_floors(table, sys.argv[1:])))))
