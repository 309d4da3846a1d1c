"""One Ray cluster for all tests that need one; they are skipped where Ray is not installed."""

from collections.abc import Iterator

import pytest

from tests.cluster.ray_cluster import start_cluster


@pytest.fixture(scope="session")
def address() -> Iterator[str]:
    """The cluster's address."""
    pytest.importorskip("ray", reason="Ray is not installed; make ray installs it")
    with start_cluster() as cluster:
        yield cluster
