"""The settings of a run."""

import json
import pickle
from typing import Any

import pytest

from sam4mllm_tool.config import SegmentationConfig
from sam4mllm_tool.protocol import Grid, Thresholds


def test_the_defaults_are_the_papers() -> None:
    config = SegmentationConfig()
    assert (config.method, config.sampler, config.thresholds) == ("pqpp", Grid(5, 5), Thresholds(0.75, 0.9))


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"method": "magic"}, "no such method: 'magic'; there are pqpp, ppg, box, points, adaptive"),
        ({"retries": -1}, "retries from 0 on, got -1"),
        ({"max_points": -1}, "max_points, a number of points, from 0 on, got -1"),
        ({"abstain": 1.5}, "abstain, a probability, from 0 to 1, got 1.5"),
        ({"abstain": float("nan")}, "abstain, a probability"),
    ],
)
def test_a_setting_out_of_range_is_refused(setting: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SegmentationConfig(**setting)


def test_overrides_make_a_new_config() -> None:
    config = SegmentationConfig(abstain=0.2)
    assert config.override({"retries": 0}) == SegmentationConfig(abstain=0.2, retries=0)
    assert config.override({}) is config
    assert config.retries == 2


def test_an_unknown_setting_is_refused() -> None:
    with pytest.raises(TypeError, match="temperature"):
        SegmentationConfig().override({"temperature": 1})  # type: ignore[typeddict-unknown-key]


def test_a_config_pickles_and_is_described_as_json() -> None:
    config = SegmentationConfig(sampler=Grid(3, 3), refine_crops=False)
    assert pickle.loads(pickle.dumps(config)) == config
    described = json.loads(json.dumps(config.to_dict()))
    assert described["refine_crops"] is False
    assert described["thresholds"] == {"on": 0.75, "off": 0.9}
    assert set(described) == set(SegmentationConfig.__dataclass_fields__) - {"timeout_s"}, "a time limit changes no result"
