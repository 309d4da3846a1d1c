"""The small trained pair that comes with the package, and the drawn world that it is trained and measured on."""

__all__ = ["TEST_SEEDS"]

TEST_SEEDS = 1_000_000
"""The first seed of the test split: scenes of smaller seeds may be used for training and tuning."""
