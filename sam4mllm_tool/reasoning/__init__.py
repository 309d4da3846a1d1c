"""Reasoning segmentation without LangChain: try again, within a budget, where an answer is in doubt.

strategies.py: the ways of trying; attempts.py: what each found, and which answer is best; budget.py: what a run may cost.
"""

import warnings
from typing import Any

from sam4mllm_tool.reasoning.attempts import Attempt, BestAnswer, ReasoningConfig, ReasoningResult
from sam4mllm_tool.reasoning.budget import Budget, Meter, Spent
from sam4mllm_tool.reasoning.strategies import ReasoningStrategies

__all__ = ["Attempt", "BestAnswer", "Budget", "Meter", "ReasoningConfig", "ReasoningResult", "ReasoningStrategies", "Spent"]

_RENAMED = {"Looking": ReasoningConfig, "Reasoned": ReasoningResult, "Standing": BestAnswer}


def __getattr__(name: str) -> Any:
    if name in _RENAMED:
        renamed = _RENAMED[name]
        warnings.warn(f"{name} is deprecated: use {renamed.__name__}", DeprecationWarning, stacklevel=2)
        return renamed
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
