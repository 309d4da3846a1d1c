"""The transcript of a run: what was asked and replied, and what it took."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from sam4mllm_tool.protocol import Exchange
from sam4mllm_tool.types import PointAnswer, Tokens

__all__ = ["Transcript"]


@dataclass
class Transcript:
    """What was asked and replied in a run, with notes on what did not go as expected.

    Args:
        exchanges: Questions with their replies, in order.
        notes: In plain words.
        warnings: Why the MLLM's answers may mean nothing, each once.
        point_answers: Every answer about a point.
        rounds: Number of MLLM calls.
        planned_points: Number of point questions planned so far, where `SegmentationConfig.max_points` bounds it.
        seconds: Seconds spent in each backend.
    """

    exchanges: list[Exchange] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    point_answers: list[PointAnswer] = field(default_factory=list)
    rounds: int = 0
    planned_points: int = 0
    seconds: dict[str, float] = field(default_factory=lambda: {"mllm": 0.0, "segmenter": 0.0})

    @property
    def tokens(self) -> Tokens | None:
        """The sum over all replies; None where one of them doesn't say."""
        counts = [exchange.reply.tokens for exchange in self.exchanges]
        if not counts or None in counts:
            return None
        return Tokens(*(sum(column) for column in zip(*(count for count in counts if count), strict=True)))

    @property
    def cached_tokens(self) -> int | None:
        """The sum over the replies whose server reports it; None where none does."""
        return _sum_known(exchange.reply.cached_tokens for exchange in self.exchanges)

    @property
    def requests(self) -> int | None:
        """The sum over all replies of a remote model; None for a model that runs here."""
        return _sum_known(exchange.reply.requests for exchange in self.exchanges)


def _sum_known(counts: Iterable[int | None]) -> int | None:
    known = [count for count in counts if count is not None]
    return sum(known) if known else None
