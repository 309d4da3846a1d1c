"""Reasoning segmentation without LangChain: try again, within a budget, where an answer is in doubt.

strategies.py: the ways of trying; attempts.py: what each gave; decision.py: which answer is best, and what to try next;
reasoning_result.py and explanation.py: the answer and its reason in words; budget.py: what a run may cost.
"""

from sam4mllm_tool.deprecation import deprecated_names
from sam4mllm_tool.reasoning.attempts import Attempt, ReasoningConfig
from sam4mllm_tool.reasoning.budget import Budget, Meter, Spent
from sam4mllm_tool.reasoning.decision import BestAnswer, choose_best, next_step
from sam4mllm_tool.reasoning.reasoning_result import ReasoningResult
from sam4mllm_tool.reasoning.strategies import ReasoningStrategies

__all__ = [
    "Attempt",
    "BestAnswer",
    "Budget",
    "Meter",
    "ReasoningConfig",
    "ReasoningResult",
    "ReasoningStrategies",
    "Spent",
    "choose_best",
    "next_step",
]

OLD_NAMES = "Looking ReasoningConfig, Reasoned ReasoningResult, Standing BestAnswer"

__getattr__ = deprecated_names(__name__, __name__, OLD_NAMES)
