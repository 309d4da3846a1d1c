"""What a tool did, as plain JSON that the conversation itself keeps, and how a later call finds it again.

An artifact is the `artifact` of the ToolMessage that told its handle. There is no session: a handle is looked up among the
messages of the conversation it is used in, so it survives whatever they survive (a checkpointer, a restart, a branch), and is
worth nothing in any other conversation. Nothing here imports LangChain.
"""

import secrets
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, TypeAlias

from sam4mllm_tool.errors import Sam4MllmError, quote_text
from sam4mllm_tool.interactive import InteractiveState
from sam4mllm_tool.types import Segmentation, Size

__all__ = [
    "Artifact",
    "HandleError",
    "Kind",
    "artifacts",
    "check_size",
    "dialogue_artifact",
    "find_artifact",
    "result_artifact",
]

Kind: TypeAlias = Literal["dialogue", "result"]
Artifact: TypeAlias = dict[str, Any]

_MAKERS = {"dialogue": "propose_boxes", "result": "segment_image"}
"""The tool that a conversation gets its first one of each kind from."""
_SHOWN = 6
"""Handles that an error lists."""


class HandleError(Sam4MllmError, LookupError):
    """A handle that this conversation doesn't have, or that is of another kind."""


def new_handle() -> str:
    """One that can't be guessed."""
    return f"seg-{secrets.token_hex(8)}"


def dialogue_artifact(picture: str, state: Mapping[str, Any], **told: Any) -> Artifact:
    """Of a dialogue that goes on. told: what is of use to a program that reads it, beside the state."""
    return {"handle": new_handle(), "kind": "dialogue", "picture": picture, "state": dict(state), **told}


def result_artifact(picture: str, segmentation: Segmentation, found: InteractiveState, **told: Any) -> Artifact:
    """Of masks: `Segmentation.to_dict`, and what it takes to refine them."""
    own = {"handle": new_handle(), "kind": "result", "picture": picture, "state": found.state()}
    return {**segmentation.to_dict(), **own, **told}


def artifacts(messages: Sequence[Any]) -> Iterator[Artifact]:
    """Those of the tools' messages, oldest first. messages: LangChain's or their dicts; others are passed over."""
    for message in messages:
        fields: Mapping[str, Any] = message if isinstance(message, Mapping) else vars(message)
        artifact = fields.get("artifact")
        if (fields.get("type") or fields.get("role")) == "tool" and isinstance(artifact, dict) and _is_whole(artifact):
            yield artifact


def _is_whole(artifact: Mapping[str, Any]) -> bool:
    texts = [artifact.get(key) for key in ("handle", "picture", "kind")]
    return all(isinstance(text, str) for text in texts) and texts[-1] in _MAKERS and isinstance(artifact.get("state"), dict)


def find_artifact(handle: str | Mapping[str, Any], kind: Kind, messages: Sequence[Any] | None) -> Artifact:
    """Return the artifact that a handle means.

    Args:
        handle: A handle that a message of this conversation carries, or "latest" for the last one of that kind. Outside an
            agent also the artifact itself.
        kind: What the artifact has to be of.
        messages: The messages of the conversation; None outside an agent.

    Raises:
        HandleError: There is no such artifact, or an agent's model wrote one itself, which could name any image of the store.
    """
    if isinstance(handle, Mapping):
        if messages is not None:
            raise HandleError(f"expected the handle of a {kind}, such as 'seg-0123456789abcdef', or 'latest', got an object")
        return _of_kind(dict(handle), kind)
    wanted = handle.strip().strip("[]'\"` ")
    there = {artifact["handle"]: artifact for artifact in artifacts(messages or ())}
    alike = [name for name, artifact in there.items() if artifact["kind"] == kind]
    if wanted in there:
        return _of_kind(there[wanted], kind)
    if wanted.lower() == "latest" and alike:
        return there[alike[-1]]
    if not alike:
        raise HandleError(f"there is no {kind} in this conversation yet: call {_MAKERS[kind]} first")
    names = ", ".join(alike[-_SHOWN:])
    raise HandleError(f"no {kind} {quote_text(handle)} in this conversation; there is {names} (latest: {alike[-1]})")


def _of_kind(artifact: Artifact, kind: Kind) -> Artifact:
    if not _is_whole(artifact):
        raise HandleError(f"that is not the artifact of a {kind}: give the artifact of the tool's message as it was")
    if artifact["kind"] != kind:
        other = artifact["kind"]
        raise HandleError(f"{artifact['handle']} is a {other}, not a {kind}: {_MAKERS[kind]} gives a {kind}")
    return artifact


def check_size(artifact: Artifact, size: Size) -> None:
    """Check that an artifact is about an image of this size, before anything in it is decoded.

    The image was held to the limits when it came in, so an artifact of its size is within them too.

    Args:
        artifact: The artifact of a dialogue or of a result.
        size: The size of the image that the artifact names.

    Raises:
        HandleError: The artifact declares another size, or none.
    """
    declared = (artifact["state"] if artifact["kind"] == "dialogue" else artifact).get("size")
    if declared != {"width": size.width, "height": size.height}:
        maker = _MAKERS[artifact["kind"]]
        raise HandleError(
            f"the {artifact['kind']} is not of an image of {size.width} x {size.height} pixels, as {artifact['picture']} is: "
            f"call {maker} once more"
        )
