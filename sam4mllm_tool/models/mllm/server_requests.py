"""What is asked of an OpenAI-compatible server: the parameters of a request, and which of them a server accepts.

Servers differ in what they accept, and say so only by refusing. A request begins with all that helps; what a server refuses is
left out from then on. Nothing here sends anything.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from sam4mllm_tool.models.mllm.chat_flow import AnswerToken, ChatAnswer, ChatRequest, build_answer
from sam4mllm_tool.protocol.thoughts import strip_thought
from sam4mllm_tool.types import Tokens, Turn

__all__ = ["build_messages", "build_parameters", "choose_rejected", "is_thinking", "read_completion"]

_MANY, _FEW = 20, 5
"""Alternatives of a token that are asked for, first and where a server refuses that many."""
_OPTIONAL = (
    "logprob_token_ids",
    "structured_outputs",
    "chat_template_kwargs",
    f"top_logprobs={_MANY}",
    f"top_logprobs={_FEW}",
    "logprobs",
    "max_tokens",
    "temperature",
)
"""Parameters that a server may refuse, the least common first."""


def build_messages(turns: Sequence[Turn], image_uri: str | None) -> list[dict[str, Any]]:
    """Return the turns as messages, the image before the first user's text, so that servers keep it in their prefix cache."""
    messages: list[dict[str, Any]] = []
    for turn in turns:
        content: Any = turn.text
        if turn.role == "user" and image_uri is not None:
            content = [{"type": "image_url", "image_url": {"url": image_uri}}, {"type": "text", "text": turn.text}]
            image_uri = None
        messages.append({"role": turn.role, "content": content})
    return messages


def build_parameters(
    request: ChatRequest, rejected: frozenset[str], token_ids: Sequence[int] = ()
) -> tuple[dict[str, Any], list[str]]:
    """Return the parameters of a request besides model and messages, and the optional ones among them.

    Args:
        request: What is asked.
        rejected: Optional parameters that the server refuses.
        token_ids: First tokens of the request's words; empty where they are unknown.
    """
    offered = {name for name in _OPTIONAL if name not in rejected}
    if request.is_sampled:
        offered -= {"logprob_token_ids", f"top_logprobs={_MANY}", f"top_logprobs={_FEW}", "logprobs"}
    if not token_ids:
        offered.discard("logprob_token_ids")
    if not request.words:
        offered.discard("structured_outputs")
    if "logprobs" not in offered:
        offered -= {f"top_logprobs={_MANY}", f"top_logprobs={_FEW}", "logprob_token_ids"}
    if f"top_logprobs={_MANY}" in offered:
        offered.discard(f"top_logprobs={_FEW}")
    names = [name for name in _OPTIONAL if name in offered]
    extra: dict[str, Any] = {}
    parameters: dict[str, Any] = {"max_tokens" if "max_tokens" in offered else "max_completion_tokens": request.max_tokens}
    for name in names:
        if name == "logprob_token_ids":
            extra[name] = list(token_ids)
        elif name == "structured_outputs":
            extra[name] = _constrain(request)
        elif name == "chat_template_kwargs":
            extra[name] = {"enable_thinking": False, "thinking": False}
        elif name == "logprobs":
            parameters[name] = True
        elif name == "temperature":
            parameters[name] = 1.0 if request.is_sampled else 0.0
        elif name.startswith("top_logprobs"):
            parameters["top_logprobs"] = int(name.partition("=")[2])
    return (parameters | {"extra_body": extra} if extra else parameters), names


def _constrain(request: ChatRequest) -> dict[str, Any]:
    """Return vLLM's constraint: the answer is one of the words, or so many of them in a row."""
    if request.count == 1:
        return {"choice": list(request.words)}
    return {"regex": f"({'|'.join(map(re.escape, request.words))}){{{request.count}}}"}


def choose_rejected(message: str, names: Sequence[str], *, is_named: bool = False) -> frozenset[str]:
    """Return which of the optional parameters of a refused request to leave out; none where there are none.

    Args:
        message: What the server said; parameters that it names are meant.
        names: The optional parameters of the request.
        is_named: Whether to leave out none that the message doesn't name, rather than the least common.
    """
    named = [name for name in names if re.search(rf"\b{name.partition('=')[0]}\b", message)]
    return frozenset(named or names[: 0 if is_named else 1])


def read_completion(completion: Any, *, requests: int = 1) -> ChatAnswer:
    """Return the answer of a completion, without its thought.

    Args:
        completion: Of the client.
        requests: How often it was asked for.

    Raises:
        ValueError: It is none.
    """
    try:
        choice = completion.choices[0]
        message = choice.message
    except (AttributeError, IndexError, TypeError) as error:
        raise ValueError("no completion") from error
    answer = build_answer(_read_text(message.content), _read_tokens(choice), has_reasoning=bool(_read_reasoning(message)))
    tokens, cached_tokens = _read_usage(completion)
    return replace(answer, tokens=tokens, cached_tokens=cached_tokens, requests=requests)


def is_thinking(completion: Any) -> bool:
    """Whether a completion ended before the model's thought did: nothing of the answer is there."""
    choice = completion.choices[0]
    return choice.finish_reason == "length" and not (strip_thought(_read_text(choice.message.content)) or "")


def _read_text(content: Any) -> str:
    """Return a message's text; some servers give it in parts."""
    if isinstance(content, list):
        return "".join(str(part.get("text", "")) for part in content if isinstance(part, Mapping))
    return content if isinstance(content, str) else ""


def _read_reasoning(message: Any) -> str:
    return str(getattr(message, "reasoning_content", None) or getattr(message, "reasoning", None) or "")


def _read_tokens(choice: Any) -> tuple[AnswerToken, ...] | None:
    content = getattr(getattr(choice, "logprobs", None), "content", None)
    return AnswerToken.read_all(token.model_dump() for token in content) if isinstance(content, list) else None


def _read_usage(completion: Any) -> tuple[Tokens | None, int | None]:
    """Return the tokens, and how many of those read come from the server's prefix cache; None where it doesn't report them."""
    usage = getattr(completion, "usage", None)
    read, written, cached = (
        count if isinstance(count, int) and count >= 0 else None
        for count in (
            getattr(usage, "prompt_tokens", None),
            getattr(usage, "completion_tokens", None),
            getattr(getattr(usage, "prompt_tokens_details", None), "cached_tokens", None),
        )
    )
    return None if read is None or written is None else Tokens(read, written), cached
