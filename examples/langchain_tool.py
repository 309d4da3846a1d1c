"""Calls the LangChain tool as an agent would, with a tool call, and reads the artifact."""

from pathlib import Path

from sam4mllm_tool import ImagePolicy, SegmentTool

here = Path(__file__).parent
tool = SegmentTool(policy=ImagePolicy(allow_paths=(here,)))  # the only folder that a model may name files in
call = {"name": tool.name, "args": {"image": "scene.png", "expression": "all rings"}, "id": "1", "type": "tool_call"}
message = tool.invoke(call)
print(message.content)
print([thing["box"] for thing in message.artifact["objects"]])
