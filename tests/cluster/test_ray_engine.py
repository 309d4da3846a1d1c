"""`sam4mllm batch --engine ray` on a cluster: workers and the driver may be killed at any time."""

import os
import signal
from pathlib import Path

import pytest

from tests.batch.batch_inputs import read_rows, run_embedded, save_scenes, write_lines
from tests.cluster.ray_cluster import list_actors, start_command, wait_until

pytestmark = pytest.mark.slow
OPTIONS = ("--engine", "ray", "--method", "box", "--shard-rows", "4")


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    """80 rows about two images, the last of an image that is not there."""
    scenes = save_scenes(tmp_path / "images")
    lines = [
        {"image": f"images/{name}", "expression": f"{text} {number}"}
        for number in range(20)
        for name, texts in scenes.items()
        for text in texts
    ]
    return write_lines(tmp_path / "rows.jsonl", [*lines[:-1], {"image": "none.png", "expression": "the ring"}])


def read_shards(output: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in output.glob("part-*")}


def test_every_row_is_there_once_after_a_worker_and_the_driver_are_killed(tmp_path: Path, rows: Path, address: str) -> None:
    out = tmp_path / "out"
    command = ("batch", rows, out, *OPTIONS, "--workers", 2, "--address", address)
    driver = start_command(*command)
    wait_until(lambda: len(read_shards(out)) >= 3, lambda: str(driver.poll()))
    os.kill(list_actors("_Actor")[0], signal.SIGKILL)
    before = len(read_shards(out))
    wait_until(lambda: len(read_shards(out)) >= before + 3, lambda: str(driver.poll()))
    driver.kill()
    driver.communicate()
    assert 6 <= len(read_shards(out)) < 20

    driver = start_command(*command)
    _, err = driver.communicate(timeout=300)
    assert driver.returncode == 3, err
    assert "row 79 (line 80 of rows.jsonl): ImageError" in err

    run_embedded(rows, tmp_path / "undisturbed", shard_rows=4)
    assert read_shards(out) == read_shards(tmp_path / "undisturbed")
    assert [row["row"] for row in read_rows(out)] == list(range(80))
