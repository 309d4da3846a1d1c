"""Run the command line as `python -m sam4mllm_tool`."""

import sys

from sam4mllm_tool.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
