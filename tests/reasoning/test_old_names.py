"""The names of version 0.1 still work, with a warning."""

import pytest

from sam4mllm_tool import looking, reasoning
from sam4mllm_tool.reasoning import BestAnswer, Budget, ReasoningConfig, ReasoningResult


@pytest.mark.parametrize(
    ("old", "new"), [("Looking", ReasoningConfig), ("Reasoned", ReasoningResult), ("Standing", BestAnswer)]
)
def test_old_classes_are_the_new_ones(old: str, new: type) -> None:
    for module in (reasoning, looking):
        with pytest.warns(DeprecationWarning, match=f"{old} is now .*{new.__name__}"):
            assert getattr(module, old) is new


def test_the_old_package_still_has_the_names_that_were_kept() -> None:
    with pytest.warns(DeprecationWarning, match="Budget"):
        assert looking.Budget is Budget


def test_the_old_setting_of_refined_crops_is_taken() -> None:
    with pytest.warns(DeprecationWarning, match="closer= is deprecated: use refine_crops="):
        assert ReasoningConfig(closer=False).refine_crops is False
