"""The small trained pair that comes with the package, and the drawn worlds that it is trained and measured on."""

from typing import Literal

__all__ = ["EMBEDDED_WORLD", "TEST_SEEDS", "WorldName"]

WorldName = Literal["shapes", "everyday"]

EMBEDDED_WORLD: WorldName = "everyday"
"""The world that the weights in the package were trained on."""

TEST_SEEDS = 1_000_000
"""The first seed of every world's test split: scenes of smaller seeds may be used for training and tuning."""
