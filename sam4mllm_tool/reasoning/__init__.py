"""Reasoning segmentation without LangChain: try again, within a budget, where an answer is in doubt.

strategies.py: the ways of trying; attempts.py: the attempts, and which answer is best; budget.py: what a run may cost.
"""

from sam4mllm_tool.deprecation import deprecated_names
from sam4mllm_tool.reasoning.attempts import Attempt, BestAnswer, ReasoningConfig, ReasoningResult
from sam4mllm_tool.reasoning.budget import Budget, Meter, Spent
from sam4mllm_tool.reasoning.strategies import ReasoningStrategies

__all__ = ["Attempt", "BestAnswer", "Budget", "Meter", "ReasoningConfig", "ReasoningResult", "ReasoningStrategies", "Spent"]

OLD_NAMES = "Looking ReasoningConfig, Reasoned ReasoningResult, Standing BestAnswer"

__getattr__ = deprecated_names(__name__, __name__, OLD_NAMES)
