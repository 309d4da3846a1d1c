"""Looking again where an answer is doubted, within a budget: what the agent `reasoning` is made of, without LangChain.

again.py: the ways of looking; attempts.py: what was seen, what speaks for it, and whether to look again; budget.py: what it may
cost.
"""

from sam4mllm_tool.looking.again import Looker
from sam4mllm_tool.looking.attempts import Attempt, Looking, Reasoned
from sam4mllm_tool.looking.budget import Budget, Meter, Spent

__all__ = ["Attempt", "Budget", "Looker", "Looking", "Meter", "Reasoned", "Spent"]
