"""Lessons: built by running the dialogue on true answers, the same bytes whoever builds them and however often they are cut."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest
from PIL import Image

from sam4mllm_tool.cli.main import main
from sam4mllm_tool.data.build import PROGRESS_FILE, Source, build_lessons
from sam4mllm_tool.data.conversations import Recipe
from sam4mllm_tool.data.point_groups import best_groups, random_groups
from sam4mllm_tool.data.training_conversations import LESSONS_FILE, Lesson, read_lessons
from sam4mllm_tool.data.verify import is_clean, told, verify_lessons
from sam4mllm_tool.embedded.files import write_scenes
from sam4mllm_tool.embedded.scenes import draw_scene
from sam4mllm_tool.errors import DataError, SpecError
from sam4mllm_tool.geometry.boxes import mask_iou
from sam4mllm_tool.models.segmenter import load_segmenter
from sam4mllm_tool.protocol import EMBEDDED, JOINT, PPG, PQPP, RELEASED, PoissonDisk, replay
from sam4mllm_tool.types import ObjectPrompt, Reply, Size, Turn
from tests.data.layouts import (
    SQUARE,
    SQUARE_XYWH,
    annotation,
    coco_name,
    reference,
    write_family,
    write_json,
    write_pickle,
    write_picture,
)

POINTS_ONLY = Recipe(dialect=JOINT, ppg=0)
QUICK = Recipe(dialect=EMBEDDED, groups=4)


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scenes")
    write_scenes(folder, 12, seed=70)
    return folder


def source(root: Path) -> list[Source]:
    return [Source("jsonl", root, "train")]


def manifest(folder: Path) -> dict:
    return json.loads((folder / "manifest.json").read_text())


def test_every_sample_is_told_by_both_ways(scenes: Path, tmp_path: Path) -> None:
    out = build_lessons(source(scenes), tmp_path / "lessons", QUICK)
    lines = (scenes / "scenes.jsonl").read_text().splitlines()
    told = Counter(one.kind for lesson in read_lessons(out) for one in lesson.conversations)
    assert told["pqpp"] == len(lines)
    assert told["pqpp"] - told["ppg"] == sum(manifest(out)["dropped"].values())
    assert manifest(out)["counts"]["samples"] == len(lines)
    assert manifest(out)["counts"]["absent"] == sum(not json.loads(line)["objects"] for line in lines) > 0
    assert manifest(out)["sha256"] == hashlib.sha256((out / LESSONS_FILE).read_bytes()).hexdigest()


def test_a_lesson_names_its_picture_from_its_own_folder(scenes: Path, tmp_path: Path) -> None:
    out = build_lessons(source(scenes), tmp_path / "deep" / "lessons", POINTS_ONLY)
    for lesson in read_lessons(out):
        assert not Path(lesson.image).is_absolute()
        assert (out / lesson.image).is_file()


@pytest.mark.parametrize("dialect", [JOINT, RELEASED, EMBEDDED], ids=lambda dialect: dialect.name)
def test_lessons_replay_through_inference_byte_for_byte(scenes: Path, tmp_path: Path, dialect) -> None:
    out = build_lessons(source(scenes), tmp_path / "lessons", replace(QUICK, dialect=dialect))
    expressions = _expressions(scenes)
    for lesson in read_lessons(out):
        for one in lesson.conversations:
            dialogue = (PPG if one.kind == "ppg" else PQPP).start(expressions[one.sample], Size(256, 256), dialect=dialect)
            question, said = _split(one.turns, dialect.start())
            (asked,) = dialogue.pending
            assert asked.turns == (*dialect.start(), question[0])
            dialogue = dialogue.answer([Reply(said[0])])
            assert len(dialogue.prompts) == said[0].count("[")
            if one.kind == "ppg":
                assert not dialogue.pending


def _split(turns: tuple[Turn, ...], start: tuple[Turn, ...]) -> tuple[list[Turn], list[str]]:
    rest = turns[len(start) :]
    return list(rest[::2]), [turn.text for turn in rest[1::2]]


def _expressions(scenes: Path) -> dict[str, str]:
    from sam4mllm_tool.data import load_dataset

    return {sample.id: sample.expression for sample in load_dataset("jsonl", scenes, split="train")}


def test_points_that_are_asked_one_by_one_are_branches(scenes: Path, tmp_path: Path) -> None:
    out = build_lessons(source(scenes), tmp_path / "lessons", replace(QUICK, ppg=0))
    present = [one for lesson in read_lessons(out) for one in lesson.conversations if "[" in one.turns[-1].text]
    assert {len(one.turns) for one in present} <= {2, 4}  # 4: a single point, which follows as it is
    counts = Counter(len(one.branches) for one in present)
    assert max(counts) <= 20 * 5
    assert all(branch[1].text in ("yes", "no") for one in present for branch in one.branches)


def test_the_number_of_points_is_normal_and_clipped(scenes: Path, tmp_path: Path) -> None:
    out = build_lessons(source(scenes), tmp_path / "lessons", replace(POINTS_ONLY, point_most=12, point_least=8))
    asked = [
        t.text for lesson in read_lessons(out) for one in lesson.conversations for t in one.turns if "on the object" in t.text
    ]
    counts = {text.split("?")[1].count("(") for text in asked}
    assert counts <= set(range(8, 13))
    assert len(counts) > 2


@pytest.mark.parametrize("processes", [1, 2])
def test_same_seed_same_bytes_however_many_processes(scenes: Path, tmp_path: Path, processes: int) -> None:
    once = build_lessons(source(scenes), tmp_path / "once", QUICK)
    again = build_lessons(source(scenes), tmp_path / "again", QUICK, processes=processes)
    assert (once / LESSONS_FILE).read_bytes() == (again / LESSONS_FILE).read_bytes()
    assert manifest(once) == manifest(again)
    other = build_lessons(source(scenes), tmp_path / "other", replace(QUICK, seed=1))
    assert (once / LESSONS_FILE).read_bytes() != (other / LESSONS_FILE).read_bytes()


BUILD = """
import sys
from pathlib import Path
from sam4mllm_tool.data import build
from sam4mllm_tool.data.build import Source, build_lessons
from tests.data.test_build import POINTS_ONLY
build._SAVE_EVERY = 3
build_lessons([Source("jsonl", Path(sys.argv[1]), "train")], Path(sys.argv[2]), POINTS_ONLY)
"""


def test_a_build_that_was_killed_goes_on_to_the_same_bytes(tmp_path: Path) -> None:
    write_scenes(tmp_path / "scenes", 400, seed=300, side=64)
    command = [sys.executable, "-c", BUILD, str(tmp_path / "scenes"), str(tmp_path / "cut")]
    cut = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    progress = tmp_path / "cut" / PROGRESS_FILE
    while not progress.exists() and cut.poll() is None:
        time.sleep(0.01)
    os.kill(cut.pid, signal.SIGKILL)
    assert cut.wait() == -signal.SIGKILL
    assert not (tmp_path / "cut" / LESSONS_FILE).exists()
    with (tmp_path / "cut" / f"{LESSONS_FILE}.part").open("a") as torn:
        torn.write('{"id": "half a li')
    subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
    whole = build_lessons(source(tmp_path / "scenes"), tmp_path / "whole", POINTS_ONLY)
    assert (tmp_path / "cut" / LESSONS_FILE).read_bytes() == (whole / LESSONS_FILE).read_bytes()
    assert manifest(tmp_path / "cut") == manifest(whole)
    assert not progress.exists()


def test_a_build_whose_part_is_gone_begins_anew(scenes: Path, tmp_path: Path) -> None:
    whole = build_lessons(source(scenes), tmp_path / "whole", POINTS_ONLY)
    out = tmp_path / "lessons"
    out.mkdir()
    order = {key: manifest(whole)[key] for key in ("format", "sources", "vqa", "held_out_roots", "held_out", "data", "recipe")}
    tally = {"pictures": 6, "counts": {"lessons": 9}, "dropped": {}, "first_dropped": []}
    (out / PROGRESS_FILE).write_text(json.dumps({"order": order, "bytes": 5000, "tally": tally}))
    build_lessons(source(scenes), out, POINTS_ONLY)
    assert (out / LESSONS_FILE).read_bytes() == (whole / LESSONS_FILE).read_bytes()
    assert manifest(out) == manifest(whole)


def test_references_of_a_picture_share_lessons_up_to_the_limits(scenes: Path, tmp_path: Path) -> None:
    few = build_lessons(source(scenes), tmp_path / "few", replace(POINTS_ONLY, references=2))
    assert max(len(lesson.conversations) for lesson in read_lessons(few)) == 2
    short = build_lessons(source(scenes), tmp_path / "short", replace(POINTS_ONLY, tokens=1))
    assert {len(lesson.conversations) for lesson in read_lessons(short)} == {1}


def test_vqa_turns_come_in_the_share_asked_for(scenes: Path, tmp_path: Path) -> None:
    told = [
        {"id": str(n), "image": f"scene-{70 + n % 12:07d}.png", "conversations": [
            {"from": "human", "value": "<image>\nHow many shapes are there?"}, {"from": "gpt", "value": str(n)}]}
        for n in range(9)
    ]  # fmt: skip
    (scenes / "conversations.json").write_text(json.dumps(told))
    vqa = [Source("vqa", scenes, "train")]
    out = build_lessons(source(scenes), tmp_path / "lessons", replace(POINTS_ONLY, vqa=0.25), vqa=vqa)
    assert manifest(out)["counts"]["vqa"] == 4  # 12 pictures with masks are three quarters of 16
    answers = [one.turns[1].text for lesson in read_lessons(out) for one in lesson.conversations if one.kind == "vqa"]
    assert answers == ["0", "1", "2", "3"]


def test_another_recipe_never_goes_on_in_the_same_folder(scenes: Path, tmp_path: Path) -> None:
    out = build_lessons(source(scenes), tmp_path / "lessons", POINTS_ONLY)
    before = (out / LESSONS_FILE).stat().st_mtime_ns
    assert build_lessons(source(scenes), out, POINTS_ONLY) == out
    assert (out / LESSONS_FILE).stat().st_mtime_ns == before
    with pytest.raises(DataError, match="recipe differ"):
        build_lessons(source(scenes), out, replace(POINTS_ONLY, seed=5))


def test_a_sample_that_cannot_be_told_is_dropped_and_counted(scenes: Path, tmp_path: Path) -> None:
    lines = [json.loads(line) for line in (scenes / "scenes.jsonl").read_text().splitlines()]
    lines = [line for line in lines if line["objects"]][:3]
    lines[1]["expression"] = "x" * 5000
    (scenes / "bad.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    out = build_lessons([Source("jsonl", scenes / "bad.jsonl", "train")], tmp_path / "lessons", POINTS_ONLY)
    told = manifest(out)
    assert told["counts"]["pqpp"] == 2
    assert sum(told["dropped"].values()) == 1
    assert "5,000 characters" in told["first_dropped"][0]


def test_nothing_to_learn_is_an_error(scenes: Path, tmp_path: Path) -> None:
    (scenes / "long.jsonl").write_text(
        json.dumps({"image": "scene-0000070.png", "expression": "x" * 5000, "kind": "", "objects": []}) + "\n"
    )
    with pytest.raises(DataError, match=r"nothing is left to learn.*5,000"):
        build_lessons([Source("jsonl", scenes / "long.jsonl", "train")], tmp_path / "lessons", POINTS_ONLY)
    assert not (tmp_path / "lessons" / LESSONS_FILE).exists()


def test_ppg_keeps_the_group_that_the_segmenter_likes_best(scenes: Path, tmp_path: Path) -> None:
    """The mean IoU recorded rises with the number of groups tried."""
    means = []
    for groups in (1, 16):
        recipe = Recipe(dialect=EMBEDDED, pqpp=0, groups=groups)
        out = build_lessons(source(scenes), tmp_path / str(groups), recipe)
        ious = [one.iou for lesson in read_lessons(out) for one in lesson.conversations if one.iou is not None]
        assert all(0 <= iou <= 1 for iou in ious)
        means.append(sum(ious) / len(ious))
    assert means[1] > means[0] + 0.005


def test_the_group_kept_is_the_best_of_all_but_for_a_hair() -> None:
    """By the masks in full of every group, not by the quick comparison that made the shortlist."""
    segmenter = load_segmenter("embedded")
    for seed in (11, 12, 13):
        scene = draw_scene(seed, 256)
        picture, mask, box = Image.fromarray(scene.image), scene.mask(0), scene.objects[0].box
        drawn = random_groups(mask, box, EMBEDDED, Random(seed), count=64, on=2, off=1)
        prompts = [ObjectPrompt(EMBEDDED.snap_box(box, Size(256, 256)), points) for points in drawn]
        every = [mask_iou(found.mask, mask) for found in segmenter.segment(picture, prompts)]
        (kept,) = best_groups(picture, mask, box, segmenter, EMBEDDED, Random(seed))
        assert kept.iou == pytest.approx(every[drawn.index(kept.points)])
        assert kept.iou >= max(every) - 0.004
        assert kept.iou > sum(every) / len(every)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("jsonl:data", Source("jsonl", Path("data"), "train"), id="train unless said otherwise"),
        pytest.param("refcoco+:data/coco:val", Source("refcoco+", Path("data/coco"), "val"), id="a split at the end"),
        pytest.param(
            "refcocog:data:val?images=else/where&split_by=google",
            Source("refcocog", Path("data"), "val", {"images": "else/where", "split_by": "google"}),
            id="options at the end",
        ),
        pytest.param(
            "ade20k:data?max_instances=3", Source("ade20k", Path("data"), options={"max_instances": 3}), id="a number"
        ),
        pytest.param("jsonl:C:/data:val", Source("jsonl", Path("C:/data"), "val"), id="a drive is part of the root"),
    ],
)
def test_a_source_is_written_name_root_split(text: str, expected: Source) -> None:
    assert Source.parse(text) == expected


@pytest.mark.parametrize("text", ["jsonl", "jsonl:", ":data"])
def test_a_source_that_is_incomplete_says_how_to_write_it(text: str) -> None:
    with pytest.raises(DataError, match="expected NAME:ROOT"):
        Source.parse(text)


def test_a_lesson_that_is_broken_is_named_by_file_and_line(tmp_path: Path) -> None:
    good = Lesson("1", "a.png", ()).to_json()
    (tmp_path / LESSONS_FILE).write_text(f'{good}\n{{"id": 2}}\n')
    with pytest.raises(DataError, match=r"lessons.jsonl, line 2: not a lesson: KeyError"):
        list(read_lessons(tmp_path))


def test_the_second_question_is_the_dialogues_own(scenes: Path, tmp_path: Path) -> None:
    """What is asked after the boxes begins as inference asks it."""
    out = build_lessons(source(scenes), tmp_path / "lessons", replace(POINTS_ONLY, dialect=RELEASED))
    one = next(o for lesson in read_lessons(out) for o in lesson.conversations if len(o.turns) == 5)
    expressions = _expressions(scenes)
    dialogue = PQPP.start(expressions[one.sample], Size(256, 256), dialect=RELEASED, sampler=PoissonDisk())
    dialogue = replay(dialogue, [[Reply(one.turns[2].text)]])
    (question,) = dialogue.pending
    assert question.turns[-1].text.split(":\n")[0] == one.turns[3].text.split(":\n")[0]


@pytest.fixture
def family(tmp_path: Path) -> Path:
    """Eight pictures that RefCOCO trains on; three of them are held out by the others of its family."""
    root = tmp_path / "family"
    write_family(
        root,
        [reference(number, number, number, "train", "it", "that") for number in range(1, 9)],
        [annotation(number, number, [SQUARE], SQUARE_XYWH) for number in range(1, 9)],
    )
    write_pickle(root / "refcoco+" / "refs(unc).p", [reference(1, 2, 2, "testA", "it")])
    write_pickle(root / "refcocog" / "refs(umd).p", [reference(1, 4, 4, "val", "it")])
    write_json(root / "grefcoco" / "grefs(unc).json", [reference(1, [-1], 6, "val", "it")])
    return root


def test_held_out_pictures_are_left_out_of_every_set_and_a_check_proves_it(family: Path, tmp_path: Path) -> None:
    asked = [{"from": "human", "value": "<image>\nWhat is it?"}, {"from": "gpt", "value": "a square"}]
    pictures = [coco_name(number) for number in (2, 4, 5)]
    write_json(family / "conversations.json", [{"id": n, "image": n, "conversations": asked} for n in pictures])
    vqa = [Source("vqa", family, "train")]
    recipe = replace(POINTS_ONLY, vqa=0.4)
    out = build_lessons([Source("refcoco", family, "train")], tmp_path / "lessons", recipe, vqa=vqa)
    assert {lesson.image_id for lesson in read_lessons(out)} == {f"coco:{number}" for number in (1, 3, 5, 7, 8)}
    told = manifest(out)
    assert told["counts"]["held out"] == 3 + 2
    assert told["counts"]["vqa"] == 1
    assert told["held_out"]["images"] == 3
    assert "none among the lessons (by 4 files)" in verify_lessons(out)[-1]


def test_a_held_out_picture_among_the_lessons_is_found(family: Path, tmp_path: Path) -> None:
    write_family(
        tmp_path / "alone",
        [reference(2, 2, 2, "train", "it")],
        [annotation(2, 2, [SQUARE], SQUARE_XYWH)],
    )
    out = build_lessons([Source("refcoco", tmp_path / "alone", "train")], tmp_path / "lessons", POINTS_ONLY)
    assert "(by 1 files)" in verify_lessons(out)[-1]
    with pytest.raises(DataError, match=r"is about coco:2 .*, which is held out"):
        verify_lessons(out, [family])
    with pytest.raises(DataError, match="every picture is held out"):
        build_lessons([Source("refcoco", tmp_path / "alone", "train")], tmp_path / "none", POINTS_ONLY, held_out=[family])


def test_lessons_that_were_changed_are_found(scenes: Path, tmp_path: Path) -> None:
    out = build_lessons(source(scenes), tmp_path / "lessons", POINTS_ONLY)
    assert verify_lessons(out)[0].endswith("(84 pqpp conversations)")
    path = out / LESSONS_FILE
    whole = path.read_text()
    path.write_text(whole.replace("[", "[ ", 1))
    with pytest.raises(DataError, match="is not the file that"):
        verify_lessons(out)
    path.write_text(whole.partition("\n")[2])
    with pytest.raises(DataError, match="as in the manifest"):
        verify_lessons(out)


def own_data(folder: Path, lines: list[dict]) -> list[Source]:
    """Own data about pictures of COCO's, with nothing to see in them."""
    for line in lines:
        write_picture(folder / line["image"])
    folder.joinpath("scenes.jsonl").write_text(
        "".join(json.dumps({"expression": "it", "objects": []} | one) + "\n" for one in lines)
    )
    return source(folder)


@pytest.mark.parametrize(
    "line",
    [
        pytest.param({"image": "a.jpg", "image_id": "2"}, id="digits"),
        pytest.param({"image": "a.jpg", "image_id": 2}, id="a number"),
        pytest.param({"image": "a.jpg", "image_id": "000000000002"}, id="with zeros"),
        pytest.param({"image": "a.jpg", "image_id": "coco:02"}, id="COCO's"),
        pytest.param({"image": coco_name(2)}, id="the file's name"),
        pytest.param({"image": coco_name(2), "image_id": "kitchen"}, id="the file's name, whatever the id"),
        pytest.param({"image": coco_name(3), "image_id": "coco:2"}, id="the id, whatever the file's name"),
    ],
)
def test_a_held_out_picture_is_known_by_its_number_or_its_files_name(family: Path, tmp_path: Path, line: dict) -> None:
    sources = own_data(tmp_path / "own", [line, {"image": "free.jpg"}])
    out = build_lessons(sources, tmp_path / "lessons", POINTS_ONLY, held_out=[family])
    assert [lesson.image.rsplit("/", 1)[-1] for lesson in read_lessons(out)] == ["free.jpg"]
    assert manifest(out)["counts"]["held out"] == 1
    whole = build_lessons(sources, tmp_path / "whole", POINTS_ONLY)
    with pytest.raises(DataError, match="is held out"):
        verify_lessons(whole, [family])


def test_what_was_held_out_is_held_out_from_any_folder(family: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own_data(tmp_path / "own", [{"image": "a.jpg"}])
    monkeypatch.chdir(tmp_path)
    out = build_lessons(source(Path("own")), tmp_path / "lessons", POINTS_ONLY, held_out=[Path("family")])
    monkeypatch.chdir("/")
    assert "(by 4 files)" in verify_lessons(out)[-1]
    assert manifest(out)["held_out_roots"] == [str(family)]
    assert build_lessons(source(tmp_path / "own"), out, POINTS_ONLY, held_out=[family]) == out


def test_lessons_are_held_against_no_less_than_they_were(family: Path, tmp_path: Path) -> None:
    sources = own_data(tmp_path / "own", [{"image": "a.jpg"}])
    out = build_lessons(sources, tmp_path / "lessons", POINTS_ONLY, held_out=[family])
    told = manifest(out)["held_out"]
    assert [Path(file).name for file in told["files"]] == ["refs(unc).p", "refs(unc).p", "refs(umd).p", "grefs(unc).json"]
    assert told["images"] == 3
    moved = family.rename(tmp_path / "moved")
    with pytest.raises(DataError, match=r"refs\(unc\)\.p.*is not there: name the root .* by --held-out"):
        verify_lessons(out)
    assert "(by 4 files)" in verify_lessons(out, [moved])[-1]
    (moved / "refcoco+" / "refs(unc).p").unlink()
    with pytest.raises(DataError, match="2 pictures are held out, 3 were"):
        verify_lessons(out, [moved])
    moved.rename(family)
    write_pickle(family / "refcoco+" / "refs(unc).p", [reference(1, 7, 7, "testA", "it")])
    with pytest.raises(DataError, match=r"refs\(unc\)\.p changed since"):
        verify_lessons(out)


def test_a_root_named_for_what_is_held_out_must_hold_it(scenes: Path, tmp_path: Path) -> None:
    out = build_lessons(source(scenes), tmp_path / "lessons", POINTS_ONLY)
    for call in (
        lambda: build_lessons(source(scenes), tmp_path / "other", POINTS_ONLY, held_out=[tmp_path]),
        lambda: verify_lessons(out, [tmp_path / "nowhere"]),
    ):
        with pytest.raises(DataError, match=r"holds nothing of the RefCOCO family.*expected refcoco/refs\(\*\)\.p"):
            call()


def test_two_sources_of_one_name_are_both_told_of(tmp_path: Path) -> None:
    sources = [*own_data(tmp_path / "one", [{"image": "a.jpg"}]), *own_data(tmp_path / "two", [{"image": "b.jpg"}])]
    for root in ("one", "two"):
        with (tmp_path / root / "scenes.jsonl").open("a") as lines:
            lines.write('{"image": "a.jpg"}\n' if root == "one" else "not JSON\n")
    out = build_lessons(sources, tmp_path / "lessons", POINTS_ONLY)
    assert [Path(read["root"]).name for read in manifest(out)["read"]] == ["one", "two"]
    assert not is_clean(out)
    lines = "\n".join(told(out))
    assert f"while reading jsonl:{tmp_path / 'one'}:train: 1 dropped: the expression is empty or not a text" in lines
    assert f"while reading jsonl:{tmp_path / 'two'}:train: 1 dropped: the line is not JSON" in lines
    assert f"{tmp_path / 'two' / 'scenes.jsonl'}, line 2" in lines


def test_a_vqa_set_that_runs_out_is_told_of(scenes: Path, tmp_path: Path) -> None:
    asked = [{"from": "human", "value": "How many?"}, {"from": "gpt", "value": "two"}]
    picture = json.loads((scenes / "scenes.jsonl").read_text().splitlines()[0])["image"]
    write_json(tmp_path / "llava.json", [{"image": str(scenes / picture), "conversations": asked}])
    vqa = [Source("vqa", tmp_path / "llava.json")]
    out = build_lessons(source(scenes), tmp_path / "lessons", replace(POINTS_ONLY, vqa=0.25), vqa=vqa)
    assert manifest(out)["counts"]["short of vqa"] == 3
    assert told(out) == ["the VQA sets ran out: 3 pictures fewer than the share asked for"]
    assert is_clean(out)


def test_the_command_tells_what_was_dropped_and_exits_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    own_data(tmp_path / "own", [{"image": "a.jpg"}])
    command = ["data", "build", "--data", f"jsonl:{tmp_path / 'own'}", "--ppg", "0", "--out"]
    assert main([*command, str(tmp_path / "good")]) == 0
    own_data(tmp_path / "own", [{"image": "a.jpg"}, {"image": "a.jpg", "expression": "x" * 5000}])
    capsys.readouterr()
    assert main([*command, str(tmp_path / "bad")]) == 1
    assert "5,000 characters" in capsys.readouterr().err.splitlines()[-1]


def test_a_segmenter_that_is_not_there_is_an_error_from_any_process(scenes: Path, tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="nowhere"):
        build_lessons(source(scenes), tmp_path / "lessons", replace(QUICK, segmenter="/nowhere"), processes=2)


IN_TWO = """
import sys
from pathlib import Path
from sam4mllm_tool.data.build import Source, build_lessons
from tests.data.test_build import QUICK
if __name__ == "__main__":
    build_lessons([Source("jsonl", Path(sys.argv[1]))], Path(sys.argv[2]), QUICK, processes=2)
"""


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="children are found by /proc")
@pytest.mark.parametrize("victim", ["the parent", "a process"])
def test_a_process_that_is_killed_leaves_no_other_behind(tmp_path: Path, victim: str) -> None:
    write_scenes(tmp_path / "scenes", 200, seed=300, side=64)
    (tmp_path / "in_two.py").write_text(IN_TWO)
    environment = os.environ | {"PYTHONPATH": str(Path.cwd())}
    command = [sys.executable, str(tmp_path / "in_two.py"), str(tmp_path / "scenes"), str(tmp_path / "out")]
    build = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)
    while len(workers := _workers(build.pid)) < 2 and build.poll() is None:
        time.sleep(0.05)
    assert len(workers) == 2
    time.sleep(3)  # until they are at work
    os.kill(build.pid if victim == "the parent" else workers[0], signal.SIGKILL)
    _, complaint = build.communicate(timeout=60)
    if victim != "the parent":
        assert "BackendError: a process of the build died" in complaint
    until = time.monotonic() + 30
    while any(Path(f"/proc/{one}/cmdline").exists() and _alive(one) for one in workers):
        assert time.monotonic() < until, "a worker outlives the build"
        time.sleep(0.1)


def _workers(parent: int) -> list[int]:
    children = Path(f"/proc/{parent}/task/{parent}/children")
    every = children.read_text().split() if children.exists() else []
    return [int(one) for one in every if b"spawn_main" in Path(f"/proc/{one}/cmdline").read_bytes()]


def _alive(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"order": 3, "bytes": 1, "tally": {}}'])
def test_progress_that_is_torn_begins_anew(tmp_path: Path, content: str) -> None:
    out = tmp_path / "lessons"
    out.mkdir()
    (out / PROGRESS_FILE).write_text(content)
    (out / f"{LESSONS_FILE}.part").write_text("half a li")
    build_lessons(own_data(tmp_path / "own", [{"image": "a.jpg"}]), out, POINTS_ONLY)
    assert len(list(read_lessons(out))) == 1
    assert not (out / PROGRESS_FILE).exists()


def test_data_that_changed_is_never_taken_for_what_was_built(tmp_path: Path) -> None:
    sources = own_data(tmp_path / "own", [{"image": "a.jpg"}])
    out = build_lessons(sources, tmp_path / "lessons", POINTS_ONLY)
    order = {key: manifest(out)[key] for key in ("format", "sources", "vqa", "held_out_roots", "held_out", "data", "recipe")}
    (tmp_path / "cut").mkdir()
    tally = {"pictures": 0, "counts": {}, "dropped": {}, "first_dropped": []}
    (tmp_path / "cut" / PROGRESS_FILE).write_text(json.dumps({"order": order, "bytes": 0, "tally": tally}))
    (out / PROGRESS_FILE).write_text("{}")  # as a cut at the very end leaves it
    assert build_lessons(sources, out, POINTS_ONLY) == out
    assert not (out / PROGRESS_FILE).exists()
    own_data(tmp_path / "own", [{"image": "a.jpg"}, {"image": "b.jpg"}])
    for folder in (out, tmp_path / "cut"):
        with pytest.raises(DataError, match="the data sets' files changed since"):
            build_lessons(sources, folder, POINTS_ONLY)


def test_options_reach_the_readers(family: Path, tmp_path: Path) -> None:
    (family / "images").rename(tmp_path / "pictures")
    places = f"images={tmp_path / 'pictures' / 'train2014'}"
    command = ["data", "build", "--ppg", "0", "--data"]
    assert main([*command, f"refcoco:{family}", "--option", places, "--out", str(tmp_path / "all")]) == 0
    assert main([*command, f"refcoco:{family}:train?{places}", "--out", str(tmp_path / "one")]) == 0
    assert manifest(tmp_path / "all") == manifest(tmp_path / "one")
    assert main([*command, f"refcoco:{family}:train?colour=red", "--out", str(tmp_path / "none")]) == 2


@pytest.mark.parametrize(
    "settings",
    [
        {"point_mean": float("nan")},
        {"point_deviation": -1.0},
        {"off": -1},
        {"point_least": 9, "point_most": 8},
        {"point_most": 0, "point_least": 0},
    ],
    ids=str,
)
def test_a_recipe_that_can_not_be_is_refused(settings: dict) -> None:
    with pytest.raises(DataError, match=r"the recipe can't be followed: expected (point|off)"):
        Recipe.of(JOINT, settings)


def test_no_process_at_all_is_refused(scenes: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="at least 1 process, got 0"):
        build_lessons(source(scenes), tmp_path, POINTS_ONLY, processes=0)
