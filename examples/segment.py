"""Segment the example image with the embedded pair; write the mask, an overlay and the result."""

from pathlib import Path

from sam4mllm_tool import Sam4Mllm, load_image, write_outputs

image = load_image(Path(__file__).parent / "scene.png")
result = Sam4Mllm.load().segment(image, "the ring below the orange circle")
for segmented in result.objects:
    print(f"box {segmented.prompt.box}, {segmented.mask.sum()} pixels, confidence {segmented.confidence:.2f}")
write_outputs("out", image, result)
