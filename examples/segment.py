"""Segments the example picture and writes the mask, the overlay and the result."""

from pathlib import Path

from sam4mllm_tool import Sam4Mllm, load_image, write_outputs

picture = load_image(Path(__file__).parent / "scene.png")
result = Sam4Mllm.load().segment(picture, "the ring below the orange circle")
for found in result.objects:
    print(f"box {found.prompt.box}, {found.mask.sum()} pixels, confidence {found.confidence:.2f}")
write_outputs("out", picture, result)
