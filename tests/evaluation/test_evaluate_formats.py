"""A small file in each dataset's published format, evaluated from the file to the report by the embedded pair."""

from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from sam4mllm_tool.evaluation import PROTOCOLS, EvaluationConfig, evaluate
from sam4mllm_tool.geometry import rle
from sam4mllm_tool.pipeline.sam4mllm import Sam4Mllm
from tests.data import drawn, layouts, test_ade20k, test_paco, test_partimagenet
from tests.embedded_world import draw_scene, name_object
from tests.evaluation.evaluation_helpers import read_samples, write_samples

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools' own

ANNOTATIONS = [
    layouts.annotation(101, 581857, [layouts.SQUARE], layouts.SQUARE_XYWH),
    layouts.annotation(102, 581857, [layouts.TALL], [30.0, 2.0, 6.0, 20.0]),
]


def refcoco_writer(name: str, file: str) -> Callable[[Path], Path]:
    references = [
        layouts.reference(1, 101, 581857, "val", "the square", "the left one"),
        layouts.reference(2, 102, 581857, "val", "the tall one"),
    ]
    return lambda root: layouts.write_family(root, references, ANNOTATIONS, name=name, file=file)


def write_grefcoco(root: Path) -> Path:
    references = [
        layouts.reference(1, [101], 581857, "val", "the square"),
        layouts.reference(2, [101, 102], 581857, "val", "both"),
        layouts.reference(3, [-1], 581857, "val", "the elephant"),
    ]
    return layouts.write_family(root, references, ANNOTATIONS, name="grefcoco", file="grefs(unc).json")


def write_reasonseg(root: Path) -> Path:
    def shape(label: str, *points: tuple[int, int]) -> dict:
        return {"label": label, "points": [list(point) for point in points], "shape_type": "polygon", "flags": {}}

    outer, inner = ((4, 4), (23, 4), (23, 19), (4, 19)), ((8, 8), (13, 8), (13, 12), (8, 12))
    annotation = {"text": ["what would you drink from?"], "is_sentence": True, "shapes": [shape("target", *outer)]}
    annotation["shapes"].append(shape("ignore", *inner))
    layouts.write_json(root / "ReasonSeg" / "val" / "001.json", annotation)
    layouts.write_image(root / "ReasonSeg" / "val" / "001.jpg")
    return root


def write_ade20k(root: Path) -> Path:
    return test_ade20k.write_scene(root, [test_ade20k.scene_object(0, test_ade20k.CAR, (20, 10, 30, 20))])


def write_paco(root: Path) -> Path:
    return test_paco.write_paco(
        root, [test_paco.paco_annotation(5, 1, (20, 10, 30, 20)), test_paco.paco_annotation(7, 2, (0, 0, 20, 20))]
    )


def write_partimagenet(root: Path) -> Path:
    return test_partimagenet.write_partimagenet(root, [drawn.annotation(1, 3, 0, (2, 3, 12, 13))])


def write_own(root: Path) -> Path:
    scene = draw_scene(5_000_001)
    target = scene.objects[0]
    objects = [{"box": list(target.box), "mask": rle.encode(scene.mask(0))}]
    expression = name_object(target)
    write_samples(root, {"image": "one.png", "expression": expression, "objects": objects, "id": "first"})
    Image.fromarray(scene.image).save(root / "one.png")
    return root


DATASETS = [
    pytest.param("refcoco", "val", "refcoco", refcoco_writer("refcoco", "refs(unc).p"), 3, id="refcoco"),
    pytest.param("refcoco+", "val", "refcoco", refcoco_writer("refcoco+", "refs(unc).p"), 3, id="refcoco+"),
    pytest.param("refcocog", "val", "refcoco", refcoco_writer("refcocog", "refs(umd).p"), 3, id="refcocog"),
    pytest.param("grefcoco", "val", "rela", write_grefcoco, 3, id="grefcoco"),
    pytest.param("reasonseg", "val", "lisa", write_reasonseg, 1, id="reasonseg"),
    pytest.param("ade20k", "train", "refcoco", write_ade20k, 1, id="ade20k"),
    pytest.param("paco", "train", "refcoco", write_paco, 2, id="paco"),
    pytest.param("partimagenet", "train", "refcoco", write_partimagenet, 1, id="partimagenet"),
    pytest.param("jsonl", "val", "refcoco", write_own, 1, id="jsonl"),
]


@pytest.fixture(scope="module")
def embedded() -> Sam4Mllm:
    return Sam4Mllm.load("embedded", "embedded")


@pytest.mark.slow
@pytest.mark.parametrize(("name", "split", "protocol", "write", "count"), DATASETS)
def test_each_format_is_evaluated_by_the_embedded_pair(
    tmp_path: Path, embedded: Sam4Mllm, name: str, split: str, protocol: str, write: Callable[[Path], Path], count: int
) -> None:
    root, out = write(tmp_path / "data"), tmp_path / "out"
    metrics = evaluate(EvaluationConfig(name, root, split=split), out, models=embedded)
    samples = read_samples(out)
    assert (metrics["protocol"], metrics["samples"], len(samples)) == (protocol, count, count)
    assert set(metrics["misses"]["by_error"]) <= {"ReplyError", "EmptyMaskError"}  # the pair was not trained on such images
    answered = [sample for sample in samples if sample["error"] is None]
    assert all((sample["truth"] > 0) == (sample["kind"] != "no-target") for sample in answered)
    keys = [key for key in PROTOCOLS[protocol].keys if key in metrics]
    assert "gIoU" in keys
    assert all(0 <= metrics[key] <= 1 for key in keys)
    assert all((out / file).stat().st_size > 500 for file in ("report.md", "report.html"))
    assert not answered or metrics["cost"]["model_calls"] > 0
    if name == "jsonl":
        assert metrics["cIoU"] > 0.8
        assert (metrics["box Acc@0.5"], metrics["misses"]["count"]) == (1, 0)
    if name == "grefcoco":
        assert set(keys) == {"cIoU", "gIoU", "Pr@0.7", "Pr@0.8", "Pr@0.9", "N-acc", "T-acc"}
        assert set(metrics["by_kind"]) == {"no-target", "single-target", "multi-target"}
