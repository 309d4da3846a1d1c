"""Looking again where an answer is doubted, within a budget: what the agent `reasoning` is made of, without LangChain.

again.py: the ways of looking; attempts.py: what was seen, what speaks for it, and whether to look again; budget.py: what it may
cost.
"""

from sam4mllm_tool.reasoning.attempts import Attempt, Looking, Reasoned
from sam4mllm_tool.reasoning.budget import Budget, Meter, Spent
from sam4mllm_tool.reasoning.strategies import Looker

__all__ = ["Attempt", "Budget", "Looker", "Looking", "Meter", "Reasoned", "Spent"]
