"""docs/faults.md: what each fault of the matrix came to. `python -m tests.faults.fault_page` runs all and writes the page."""

from collections.abc import Sequence
from pathlib import Path

from tests.faults.fault_case import FaultCase
from tests.faults.input_cases import list_image_cases, list_loading_cases
from tests.faults.model_cases import list_model_cases, list_server_cases
from tests.faults.output_cases import list_output_cases

__all__ = ["PAGE", "TABLES", "read_page", "render_page"]

PAGE = Path(__file__).parents[2] / "docs/faults.md"
TABLES: dict[str, tuple[FaultCase, ...]] = {
    "A model in this process": tuple(list_model_cases()),
    "A model behind a server": tuple(list_server_cases()),
    "Loading, images and files": (*list_loading_cases(), *list_image_cases(), *list_output_cases()),
}
_HEAD = "fault"


def render_page(outcomes: dict[tuple[str, str, str], str]) -> str:
    """Return the tables as Markdown.

    Args:
        outcomes: What the caller got, by table, fault and stage.
    """
    return "\n".join(f"## {title}\n\n{_render_table(title, cases, outcomes)}" for title, cases in TABLES.items())


def _render_table(title: str, cases: Sequence[FaultCase], outcomes: dict[tuple[str, str, str], str]) -> str:
    stages, faults = (list(dict.fromkeys(getattr(case, name) for case in cases)) for name in ("stage", "fault"))
    rows = [[_HEAD, *stages], ["---"] * (len(stages) + 1)]
    rows += [[fault, *(outcomes.get((title, fault, stage), "") for stage in stages)] for fault in faults]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def read_page() -> dict[tuple[str, str, str], str]:
    """Return the outcomes on the page, by table, fault and stage."""
    outcomes: dict[tuple[str, str, str], str] = {}
    title, stages = "", [""]
    for line in PAGE.read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if line.startswith("## "):
            title = line.removeprefix("## ")
        elif line.startswith(f"| {_HEAD} |"):
            stages = cells[1:]
        elif line.startswith("| ") and not line.startswith("| ---"):
            outcomes |= {(title, cells[0], stage): cell for stage, cell in zip(stages, cells[1:], strict=True) if cell}
    return outcomes


def main() -> None:
    """Run all and replace the tables of the page."""
    outcomes = {(title, case.fault, case.stage): case.run() for title, cases in TABLES.items() for case in cases}
    start = PAGE.read_text(encoding="utf-8").partition("\n## ")[0]
    PAGE.write_text(f"{start}\n{render_page(outcomes)}", encoding="utf-8")


if __name__ == "__main__":
    main()
