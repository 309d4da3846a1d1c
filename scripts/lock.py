"""Writes constraints.txt: the newest versions of everything that the set-up commands install. `make lock` runs it.

The versions are resolved in a fresh environment and not installed. torch and torchvision stay as constraints.txt has them.
"""

import json
import re
import subprocess
import tempfile
import venv
from pathlib import Path

ROOT = Path(__file__).parents[1]
CONSTRAINTS = ROOT / "constraints.txt"
WANTED = [".[all,docs,ray,release,test]", "labelme", "num2words", "setuptools", "uv"]
"""All extras; num2words for SmolVLM's processor; setuptools to build packages without a wheel; LabelMe and uv for tests."""
KEPT = ("torch", "torchvision")
HEADER = """\
# Every version that the set-up commands and CI install, build requirements and pip included. The package itself declares floors
# only. `make lock` renews this file, except torch and torchvision: they stay at 2.13.0 and 0.28.0, the newest that have builds
# for the CPU alone where this project is worked on. Builds for CUDA take gigabytes more. Change these two by hand.
"""


def main() -> None:
    """Resolve the newest versions and write them, sorted by name."""
    kept = [line for line in CONSTRAINTS.read_text(encoding="utf-8").splitlines() if line.split("==")[0] in KEPT]
    with tempfile.TemporaryDirectory() as folder:
        venv.create(folder, with_pip=True)
        pip, report, constraints = Path(folder, "bin", "pip"), Path(folder, "report.json"), Path(folder, "kept.txt")
        constraints.write_text("\n".join(kept), encoding="utf-8")
        subprocess.run([pip, "install", "-q", "--upgrade", "pip"], check=True)
        options = ["-q", "--dry-run", "--ignore-installed", "--report", report, "--constraint", constraints]
        subprocess.run([pip, "install", *options, *WANTED, "pip"], check=True, cwd=ROOT)
        found = [package["metadata"] for package in json.loads(report.read_text(encoding="utf-8"))["install"]]
    # Names as package indexes normalise them; a local version such as +cpu names a build, not a release.
    versions = {re.sub(r"[-_.]+", "-", item["name"]).lower(): item["version"].partition("+")[0] for item in found}
    versions.pop("sam4mllm-tool")
    lines = [f"{name}=={version}\n" for name, version in sorted(versions.items())]
    CONSTRAINTS.write_text(HEADER + "".join(lines), encoding="utf-8")


if __name__ == "__main__":
    main()
