"""Call the LangChain tool as an agent does, with a tool call, and read the artifact."""

from pathlib import Path

from sam4mllm_tool import ImagePolicy, SegmentTool

here = Path(__file__).parent
tool = SegmentTool(policy=ImagePolicy(allow_paths=(here,)))  # the only folder that a model may name files in
call = {"name": tool.name, "args": {"image": "scene.png", "expression": "all mugs"}, "id": "1", "type": "tool_call"}
message = tool.invoke(call)
print(message.content)
print([segmented["box"] for segmented in message.artifact["objects"]])
