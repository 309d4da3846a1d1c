"""An agent that segments, in one line: a chat model, the tools, and the images of the conversation on one store.

    agent = create_segmentation_agent("openai:gpt-5")
    agent.invoke({"messages": [HumanMessage([{"type": "text", "text": "Cut out the mug."}, image_block])]})

Every message goes to the chat model; agents/chat.py answers plain requests without one.
"""

from collections.abc import Sequence
from typing import Any

from langchain.agents import create_agent
from langchain.agents.middleware import AgentMiddleware
from langchain_core.language_models import BaseChatModel
from langchain_core.tools import BaseTool
from langgraph.graph.state import CompiledStateGraph
from langgraph.types import Checkpointer

from sam4mllm_tool.agents.chat import SYSTEM_PROMPT, load_chat_model
from sam4mllm_tool.agents.image_middleware import ImageMiddleware
from sam4mllm_tool.tools import Sam4MllmToolkit

__all__ = ["create_segmentation_agent"]


def create_segmentation_agent(
    model: str | BaseChatModel,
    *,
    mllm: str | BaseChatModel | None = None,
    segmenter: str | None = None,
    toolkit: Sam4MllmToolkit | None = None,
    tools: Sequence[BaseTool] = (),
    middleware: Sequence[AgentMiddleware[Any, Any, Any]] = (),
    system_prompt: str = SYSTEM_PROMPT,
    checkpointer: Checkpointer = None,
) -> CompiledStateGraph[Any, Any, Any, Any]:
    """Create an agent with the segmentation tools; its state is `messages`, as any LangChain agent's.

    Args:
        model: A chat model or its spec, as in "openai:gpt-5".
        mllm: The MLLM of the tools, by default the environment's, else the embedded one: a spec, or a chat model that takes
            images. `model` itself makes the agent's own model the MLLM, so that nothing else is hosted but the segmenter.
        segmenter: The segmenter of the tools, a spec; by default the environment's, else the embedded one, which knows drawn
            scenes only.
        toolkit: The segmentation tools, if they need other settings; it has its own `mllm` and `segmenter`. By default the
            models are loaded on first use. Images of messages go into its store.
        tools: Tools of your own besides these.
        middleware: Middleware of your own, after the one that takes images out of messages.
        system_prompt: The chat model's instructions.
        checkpointer: What keeps the conversations.

    Raises:
        SpecError: The chat model can't be loaded.
        ValueError: Besides `toolkit`, `mllm` or `segmenter` is given.
    """
    for name, spec in {"mllm": mllm, "segmenter": segmenter}.items():
        if spec is not None and toolkit is not None:
            raise ValueError(f"expected either {name} or toolkit, got both: give the toolkit this {name}")
    toolkit = Sam4MllmToolkit(mllm=mllm, segmenter=segmenter) if toolkit is None else toolkit
    images = ImageMiddleware(toolkit.image_store, policy=toolkit.policy)
    agent = create_agent(
        load_chat_model(model) if isinstance(model, str) else model,
        [*toolkit.get_tools(), *tools],
        system_prompt=system_prompt,
        middleware=[images, *middleware],
        checkpointer=checkpointer,
        name="segmentation",
    )
    return images.guard(agent)
