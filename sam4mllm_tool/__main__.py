"""Run the command line: `python -m sam4mllm_tool`, and the script `sam4mllm`."""

import sys

__all__ = ["start"]


def start() -> int:
    """Run the command line and return its exit code; Ctrl-C ends it without a traceback while it is still starting, too."""
    try:
        from sam4mllm_tool.cli.main import main  # which takes a while

        return main()
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(start())
