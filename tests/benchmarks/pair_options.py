"""The options of benchmarks that measure a pair on its drawn world: --world, --mllm and --segmenter."""

import argparse

from sam4mllm_tool import Sam4Mllm
from sam4mllm_tool.embedded import EMBEDDED_WORLD
from sam4mllm_tool.embedded.drawn_worlds import DRAWN_WORLDS, DrawnWorld

__all__ = ["add_pair_options", "read_pair_options"]


def add_pair_options(parser: argparse.ArgumentParser) -> None:
    """Add the options; they default to the pair in the package and its world."""
    parser.add_argument("--world", choices=DRAWN_WORLDS, default=EMBEDDED_WORLD, help="world of the scenes (%(default)s)")
    parser.add_argument("--mllm", default="embedded", help="spec of the MLLM to measure (default: %(default)s)")
    parser.add_argument("--segmenter", default="embedded", help="spec of the segmenter to measure (default: %(default)s)")


def read_pair_options(arguments: argparse.Namespace) -> tuple[Sam4Mllm, DrawnWorld]:
    """Load the pair; return it with its world."""
    return Sam4Mllm.load(arguments.mllm, arguments.segmenter), DRAWN_WORLDS[arguments.world]
