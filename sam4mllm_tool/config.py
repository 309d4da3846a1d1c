"""The settings of a run, once and frozen: the library, the command, tools, evaluation and traces share them."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from threading import TIMEOUT_MAX
from typing import Any, Literal, TypeAlias, TypedDict, get_args

from sam4mllm_tool.deprecation import rename_arguments
from sam4mllm_tool.protocol import Grid, Sampler, Thresholds

__all__ = ["METHODS", "Method", "SegmentationConfig", "SettingsOverrides"]

Method: TypeAlias = Literal["pqpp", "ppg", "box", "points", "adaptive"]
"""The paper's three methods, `points`, which prompts without a box, and `adaptive`, which verifies what it does."""
METHODS: tuple[Method, ...] = get_args(Method)


@dataclass(frozen=True, kw_only=True)
class SegmentationConfig:
    """How an expression is segmented, whatever the models are. The defaults are the paper's.

    Args:
        method: The method of `segment` where the call names none.
        sampler: Where PQPP asks inside a box; the paper's 5 x 5 grid.
        thresholds: Which point answers PQPP keeps; the paper's P(Yes) > 0.75 and P(No) > 0.9.
        retries: How often an unreadable reply is asked for again, with a correction where the dialect has words for one.
            Deterministic models are not asked the same question twice. After the last try PQPP and PPG go on without points,
            and an unreadable box is a ReplyError.
        abstain: Objects whose confidence in [0, 1] is below it are left out, with a note; 0 leaves none out. An object
            without a confidence stays.
        max_points: About how many point questions `adaptive` may ask for one expression; it asks about nine an object.
        timeout_s: Time limit of one call of a model, in seconds; None for no limit. The run then ends with a BackendError.
            A model that doesn't return is left behind in a thread of its own.
        refine_crops: Whether `adaptive` segments small objects again in up to three enlarged crops each.

    Raises:
        ValueError: A setting is out of its range.
    """

    method: Method = "pqpp"
    sampler: Sampler = Grid()
    thresholds: Thresholds = Thresholds()
    retries: int = 2
    abstain: float = 0.0
    max_points: int = 225
    refine_crops: bool = True
    timeout_s: float | None = None

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise ValueError(f"no such method: {self.method!r}; there are {', '.join(METHODS)}")
        if self.retries < 0:
            raise ValueError(f"expected retries from 0 on, got {self.retries}")
        if self.max_points < 0:
            raise ValueError(f"expected max_points, a number of points, from 0 on, got {self.max_points}")
        if self.timeout_s is not None and not 0 < self.timeout_s <= TIMEOUT_MAX:
            raise ValueError(
                f"expected timeout_s, a number of seconds, above 0 and up to {TIMEOUT_MAX:g}, got {self.timeout_s}"
            )
        if not 0 <= self.abstain <= 1:
            raise ValueError(f"expected abstain, a probability, from 0 to 1, got {self.abstain}")

    def override(self, settings: "SettingsOverrides") -> "SegmentationConfig":
        """Return the config with other values for the given settings.

        Raises:
            ValueError: A setting is out of its range.
            TypeError: There is no such setting.
        """
        renamed = rename_arguments(settings, "budget max_points, closer refine_crops")
        return replace(self, **renamed) if renamed else self

    def to_dict(self) -> dict[str, Any]:
        """Return the settings as plain JSON, for a record of what was run; the sampler as its text form."""
        plain: Mapping[str, Any] = {
            name: getattr(self, name) for name in ("method", "retries", "abstain", "max_points", "refine_crops")
        }
        return {**plain, "sampler": repr(self.sampler), "thresholds": asdict(self.thresholds)}


class SettingsOverrides(TypedDict, total=False):
    """The settings of `SegmentationConfig` as keyword arguments. `budget` and `closer` are the names before version 0.2."""

    method: Method
    sampler: Sampler
    thresholds: Thresholds
    retries: int
    abstain: float
    max_points: int
    refine_crops: bool
    timeout_s: float | None
    budget: int
    closer: bool
