"""The options of benchmarks that measure a pair on drawn scenes: --mllm and --segmenter."""

import argparse

from sam4mllm_tool import Sam4Mllm

__all__ = ["add_pair_options", "read_pair_options"]


def add_pair_options(parser: argparse.ArgumentParser) -> None:
    """Add the options; they default to the pair in the package."""
    parser.add_argument("--mllm", default="embedded", help="spec of the MLLM to measure (default: %(default)s)")
    parser.add_argument("--segmenter", default="embedded", help="spec of the segmenter to measure (default: %(default)s)")


def read_pair_options(arguments: argparse.Namespace) -> Sam4Mllm:
    """Load the pair."""
    return Sam4Mllm.load(arguments.mllm, arguments.segmenter)
