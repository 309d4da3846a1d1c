"""Results and dialogues as plain JSON that the conversation itself keeps, and how a later call finds them again.

An artifact is the `artifact` of the ToolMessage that carries its handle. There is no session: a handle is looked up among the
messages of the conversation, so it survives what they survive (a checkpointer, a restart, a branch) and is worth nothing in any
other conversation. Nothing here imports LangChain.
"""

import secrets
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal, TypeAlias, get_args

from sam4mllm_tool.errors import Sam4MllmError, quote_text
from sam4mllm_tool.interactive import InteractiveState
from sam4mllm_tool.pipeline.run_context import MAX_MASK_BYTES
from sam4mllm_tool.types import Segmentation, Size

__all__ = [
    "KINDS",
    "MAX_OBJECTS",
    "ORIGIN_KEY",
    "Artifact",
    "HandleError",
    "Kind",
    "build_dialogue_artifact",
    "build_result_artifact",
    "find_artifact",
    "get_image_name",
    "list_artifacts",
    "restore_result",
    "validate_extent",
]

Kind: TypeAlias = Literal["dialogue", "result"]
KINDS: tuple[Kind, ...] = get_args(Kind)
Artifact: TypeAlias = dict[str, Any]

MAX_OBJECTS = 256
"""Objects of a result, or boxes of a dialogue, that a tool reads back."""

ORIGIN_KEY = "origin"
"""The key that says where the artifact's image came from: "message", or "opened" by a tool from a path, a URL or a data URI."""
_MAKERS = {"dialogue": "propose_boxes", "result": "segment_image"}
"""The tool from which a conversation gets its first artifact of each kind."""
_MAX_LISTED = 6
"""Handles that an error lists."""


class HandleError(Sam4MllmError, LookupError):
    """A handle that this conversation doesn't have, that is of another kind, or whose artifact can't be used."""


def create_handle() -> str:
    """Return a new handle that can't be guessed."""
    return f"seg-{secrets.token_hex(8)}"


def build_dialogue_artifact(image_id: str, state: Mapping[str, Any], **details: Any) -> Artifact:
    """Build the artifact of a dialogue that can go on. `details` are for programs that read it."""
    return {"handle": create_handle(), "kind": "dialogue", "picture": image_id, "state": dict(state), **details}


def build_result_artifact(image_id: str, segmentation: Segmentation, refinable: InteractiveState, **details: Any) -> Artifact:
    """Build the artifact of masks: `Segmentation.to_dict()`, and the state that refining them needs."""
    fields = {"handle": create_handle(), "kind": "result", "picture": image_id, "state": refinable.to_dict()}
    return {**replace(segmentation, objects=refinable.objects).to_dict(), **fields, **details}


def get_image_name(artifact: Artifact) -> str:
    """Return the name of the file of an artifact's image, for its files; "image.png" where it is unknown."""
    name = artifact.get("name")
    return name if name and isinstance(name, str) else "image.png"


def restore_result(artifact: Artifact) -> InteractiveState:
    """Rebuild a result that can be refined from its artifact.

    Raises:
        Sam4MllmError: The artifact is not what `build_result_artifact` wrote.
    """
    try:
        return InteractiveState.from_dict(artifact, artifact["state"])
    except (ArithmeticError, LookupError, RecursionError) as error:
        raise HandleError(f"the result can't be read back: call {_MAKERS['result']} once more") from error


def list_artifacts(messages: Sequence[Any]) -> Iterator[Artifact]:
    """Yield the artifacts of tool messages, oldest first. Messages are LangChain's or their dicts; others are skipped."""
    for message in messages:
        fields: Mapping[str, Any] = message if isinstance(message, Mapping) else vars(message)
        artifact = fields.get("artifact")
        if (fields.get("type") or fields.get("role")) == "tool" and isinstance(artifact, dict) and _is_complete(artifact):
            yield artifact


def _is_complete(artifact: Mapping[str, Any]) -> bool:
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
        return _validate_kind(dict(handle), kind)
    name = handle.strip().strip("[]'\"` ")
    artifacts = {artifact["handle"]: artifact for artifact in list_artifacts(messages or ())}
    of_kind = [other for other, artifact in artifacts.items() if artifact["kind"] == kind]
    if name in artifacts:
        return _validate_kind(artifacts[name], kind)
    if not of_kind:
        raise HandleError(f"there is no {kind} in this conversation yet: call {_MAKERS[kind]} first")
    if name.lower() == "latest":
        return artifacts[of_kind[-1]]
    listed = ", ".join(of_kind[-_MAX_LISTED:])
    raise HandleError(f"no {kind} {quote_text(handle)} in this conversation; there is {listed} (latest: {of_kind[-1]})")


def _validate_kind(artifact: Artifact, kind: Kind) -> Artifact:
    if not _is_complete(artifact):
        raise HandleError(f"that is not the artifact of a {kind}: give the artifact of the tool's message, unchanged")
    if artifact["kind"] != kind:
        handle, other = quote_text(artifact["handle"]), artifact["kind"]
        raise HandleError(f"{handle} is a {other}, not a {kind}: {_MAKERS[kind]} gives a {kind}")
    return artifact


def validate_extent(artifact: Artifact, size: Size) -> None:
    """Check how large an artifact is, before anything in it is decoded.

    The image was held to the limits when it came in, so an artifact of its size is within them too.

    Args:
        artifact: The artifact of a dialogue or of a result.
        size: The size of the image that the artifact names.

    Raises:
        HandleError: The artifact declares another size, or none, or its masks would take too much memory.
    """
    declared = (artifact["state"] if artifact["kind"] == "dialogue" else artifact).get("size")
    if declared != {"width": size.width, "height": size.height}:
        raise HandleError(
            f"the {artifact['kind']} is not of an image of {size.width} x {size.height} pixels, as {artifact['picture']} is: "
            f"call {_MAKERS[artifact['kind']]} once more"
        )
    objects = artifact.get("objects", [])
    if not isinstance(objects, list):
        raise HandleError(f"the objects of the {artifact['kind']} are not a list: call {_MAKERS[artifact['kind']]} once more")
    limit = min(MAX_OBJECTS, MAX_MASK_BYTES // (size.width * size.height))
    if len(objects) > limit:
        raise HandleError(f"the {artifact['kind']} has {len(objects):,} objects, at most {limit} can be used: name fewer")
