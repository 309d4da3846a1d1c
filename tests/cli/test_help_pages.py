"""docs/command_line.md has every command's help page as it is."""

import runpy
from pathlib import Path

from tests.cli.test_cli_main import COMMANDS

SCRIPT = Path(__file__).parents[2] / "scripts" / "command_line_docs.py"


def test_the_documentation_has_every_help_page_as_it_is() -> None:
    script = runpy.run_path(str(SCRIPT))
    page = script["PAGE"].read_text(encoding="utf-8")
    assert page == script["render"](), "run make help-pages"
    for path, command in COMMANDS.items():
        assert f"## {' '.join(('sam4mllm', *path))}\n" in page
        for param in command.params:
            assert getattr(param, "hidden", False) or all(f"{name}" in page for name in param.opts if name.startswith("-"))
