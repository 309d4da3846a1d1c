"""Conversations without masks: LLaVA's files and VQAv2's."""

from pathlib import Path
from typing import Any

import pytest

from sam4mllm_tool.data import load_dataset
from sam4mllm_tool.errors import DataError
from sam4mllm_tool.types import Turn
from tests.data.layouts import HEIGHT, WIDTH, coco_name, write_image, write_json


def turns_of(*texts: str) -> list[dict[str, str]]:
    return [{"from": ("human", "gpt")[number % 2], "value": text} for number, text in enumerate(texts)]


def record(image: str | None, conversations: Any) -> dict[str, Any]:
    return {"id": "0", **({"image": image} if image else {}), "conversations": conversations}


def write_llava(root: Path, *records: Any, name: str = "llava_v1_5_mix665k.json") -> Path:
    write_json(root / name, list(records))
    return root


def test_a_conversation_becomes_turns_without_the_image_placeholder(tmp_path: Path) -> None:
    write_image(tmp_path / "coco" / "train2017" / "000000033471.jpg")
    turns = turns_of("<image>\nWhat colour is the bus?", "White and red.", "How many?", "One.\n")
    dataset = load_dataset("vqa", write_llava(tmp_path, record("coco/train2017/000000033471.jpg", turns)))
    (sample,) = dataset
    assert sample.turns == (
        Turn("user", "What colour is the bus?"),
        Turn("assistant", "White and red."),
        Turn("user", "How many?"),
        Turn("assistant", "One."),
    )
    assert (sample.expression, sample.boxes, sample.masks(), sample.kind) == ("", (), (), "vqa")
    assert (sample.image_id, sample.size) == ("coco:33471", (WIDTH, HEIGHT))
    assert not dataset.problems


@pytest.mark.parametrize(
    ("named", "lies"),
    [
        pytest.param("a.jpg", "a.jpg", id="in the root"),
        pytest.param("a.jpg", "images/a.jpg", id="in images"),
        pytest.param("gqa/images/a.jpg", "images/gqa/images/a.jpg", id="in a folder of images"),
        pytest.param("000000000042.jpg", f"images/train2014/{coco_name(42)}", id="under COCO's name of 2014"),
        pytest.param("coco/train2017/000000000042.jpg", f"train2014/{coco_name(42)}", id="in another year's folder"),
    ],
)
def test_the_image_is_found_in_any_usual_folder(tmp_path: Path, named: str, lies: str) -> None:
    write_image(tmp_path / lies)
    (sample,) = load_dataset("vqa", write_llava(tmp_path, record(named, turns_of("what?", "it"))))
    assert sample.image_path == tmp_path / lies
    assert sample.image_id == ("coco:42" if "42" in named else f"vqa:{named}")


@pytest.mark.parametrize(
    ("invalid", "what"),
    [
        pytest.param(record(None, turns_of("hello", "hello")), "the conversation has no image", id="without an image"),
        pytest.param("text", "the conversation has no image", id="no record"),
        pytest.param(record("b.jpg", turns_of("what?", "it")), "the image does not exist", id="a missing image"),
        pytest.param(
            record("a.jpg", turns_of("what?")), "the turns do not alternate between question and answer", id="no answer"
        ),
        pytest.param(record("a.jpg", []), "the turns do not alternate between question and answer", id="no turn"),
        pytest.param(
            record("a.jpg", turns_of("what?", "it")[::-1]),
            "the turns do not alternate between question and answer",
            id="the answer first",
        ),
        pytest.param(record("a.jpg", turns_of("<image>", "it")), "a turn is empty", id="an image without a question"),
        pytest.param(record("a.jpg", [{"from": "dog", "value": "wow"}]), "a turn is malformed", id="another speaker"),
        pytest.param(record("a.jpg", None), "a turn is malformed", id="no conversation"),
    ],
)
def test_an_invalid_conversation_is_dropped_and_reported(tmp_path: Path, invalid: Any, what: str) -> None:
    write_image(tmp_path / "a.jpg")
    dataset = load_dataset("vqa", write_llava(tmp_path, invalid, record("a.jpg", turns_of("what?", "it"))))
    assert [sample.id for sample in dataset] == ["vqa-1"]
    ((fate, fault), count) = next(iter(dataset.problems.counts.items()))
    assert (fate, count, fault[: len(what)]) == ("dropped", 1, what)
    assert "record 0" in dataset.problems.first[0]


def test_the_root_may_be_the_file_itself(tmp_path: Path) -> None:
    write_image(tmp_path / "a.jpg")
    write_llava(tmp_path, record("a.jpg", turns_of("what?", "it")), name="mine.json")
    assert len(list(load_dataset("vqa", tmp_path / "mine.json", "val"))) == 1


QUESTIONS = [
    {"image_id": 42, "question": "Is it red?", "question_id": 42000},
    {"image_id": 42, "question": "How many?", "question_id": 42001},
    {"image_id": 43, "question": "Where?", "question_id": 43000},
]
ANSWERS = [
    {
        "question_id": 42001,
        "image_id": 42,
        "multiple_choice_answer": "2",
        "answers": [{"answer": "2"}],
        "answer_type": "number",
    },
    {"question_id": 42000, "image_id": 42, "multiple_choice_answer": "no", "answers": [], "answer_type": "yes/no"},
]


def write_vqa_v2(root: Path, split: str = "train") -> Path:
    head = {"info": {"year": 2014}, "task_type": "Open-Ended", "data_type": "mscoco", "license": {"name": "CC"}}
    write_json(root / f"v2_OpenEnded_mscoco_{split}2014_questions.json", {**head, "questions": QUESTIONS})
    write_json(root / f"v2_mscoco_{split}2014_annotations.json", {**head, "annotations": ANSWERS})
    write_image(root / "images" / f"{split}2014" / f"COCO_{split}2014_000000000042.jpg")
    return root


@pytest.mark.parametrize("split", ["train", "val"])
def test_vqa_v2_questions_are_joined_with_their_answers_by_id(tmp_path: Path, split: str) -> None:
    dataset = load_dataset("vqa", write_vqa_v2(tmp_path, split), split)
    hint = "Answer the question using a single word or phrase."
    assert [(sample.id, *(turn.text for turn in sample.turns)) for sample in dataset] == [
        ("vqa-42000", f"Is it red?\n{hint}", "no"),
        ("vqa-42001", f"How many?\n{hint}", "2"),
    ]
    assert dict(dataset.problems.counts) == {("dropped", "the question has no answer"): 1}
    assert "question 43000" in dataset.problems.first[0]


def test_vqa_v2_images_get_cocos_number_and_the_hint_is_optional(tmp_path: Path) -> None:
    first = next(iter(load_dataset("vqa", write_vqa_v2(tmp_path), hint="")))
    assert first.turns[0].text == "Is it red?"
    assert first.image_id == "coco:42"
    assert first.image_path.name == coco_name(42)


def test_missing_files_are_errors(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"holds none of v2_OpenEnded_mscoco_val2014_questions\.json"):
        load_dataset("vqa", tmp_path, "val")
    write_vqa_v2(tmp_path)
    (tmp_path / "v2_mscoco_train2014_annotations.json").unlink()
    with pytest.raises(DataError, match=r"holds no v2_mscoco_train2014_annotations\.json.*'annotations'"):
        load_dataset("vqa", tmp_path)


def test_a_damaged_file_is_an_error(tmp_path: Path) -> None:
    write_vqa_v2(tmp_path)
    path = tmp_path / "v2_mscoco_train2014_annotations.json"
    write_json(path, {"annotations": [{"question_id": 1}]})
    with pytest.raises(DataError, match=r"annotations\.json has an annotation without"):
        list(load_dataset("vqa", tmp_path))
    path.write_text('{"annotations": [{"question_id": 1, ')
    with pytest.raises(DataError, match="damaged or not JSON in UTF-8, at the start"):
        list(load_dataset("vqa", tmp_path))
