"""Segment the example image with the embedded pair; write the mask, an overlay and the result."""

from pathlib import Path

from sam4mllm_tool import Sam4Mllm, load_image, write_outputs
from sam4mllm_tool.images.export import format_confidence

image = load_image(Path(__file__).parent / "scene.png")
result = Sam4Mllm.load().segment(image, "the mug with the spoon in it", method="adaptive")
for segmented in result.objects:
    print(f"box {segmented.prompt.box}, {segmented.mask.sum()} pixels, {format_confidence(segmented.confidence)}")
write_outputs("out", image, result)
