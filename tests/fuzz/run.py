"""Fuzz all that strangers hand us, in full: `python -m tests.fuzz.run --inputs 500000 --images 20000` prints what it came to.

CI runs the same with fewer inputs (test_fuzzing.py). What fails names its seed.
"""

import argparse
import time

from tests.fuzz.fuzzing import fuzz_images, fuzz_text
from tests.fuzz.hostile_corpus import list_hostile_images
from tests.fuzz.text_targets import TARGETS

_SHARES = {"replies": 0.5, "expressions": 0.2, "artifacts": 0.1, "traces": 0.1, "files beside weights": 0.1}


def main() -> None:
    """Run all targets and print their figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--inputs", type=int, default=500_000, help="texts and JSON values in all")
    parser.add_argument("--images", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=1_000_000, help="of the first input; CI's are below 100,000")
    options = parser.parse_args()
    assert _SHARES.keys() == TARGETS.keys()
    began = time.perf_counter()
    print(f"images: {fuzz_images(list_hostile_images(options.images, options.seed))}", flush=True)
    for name, share in _SHARES.items():
        print(f"{name}: {fuzz_text(name, round(share * options.inputs), options.seed)}", flush=True)
    print(f"in {time.perf_counter() - began:.0f} s")


if __name__ == "__main__":
    main()
