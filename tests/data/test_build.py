"""Training conversations: built by running the dialogue on true answers, with the same bytes after any interruption."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import pytest
from PIL import Image

from sam4mllm_tool.cli.main import main
from sam4mllm_tool.data import load_dataset
from sam4mllm_tool.data.build import PROGRESS_FILE, Source, build_conversations, build_lessons
from sam4mllm_tool.data.conversation_builder import Recipe
from sam4mllm_tool.data.ppg_targets import draw_point_groups, select_point_groups
from sam4mllm_tool.data.training_conversations import (
    CONVERSATIONS_FILE,
    ImageConversations,
    TrainingConversation,
    read_conversations,
    read_lessons,
)
from sam4mllm_tool.data.verify import describe_problems, is_clean, verify_conversations, verify_lessons
from sam4mllm_tool.embedded.scene_files import write_scenes
from sam4mllm_tool.errors import DataError, SpecError
from sam4mllm_tool.geometry.boxes import mask_iou
from sam4mllm_tool.models.segmenter import load_segmenter
from sam4mllm_tool.protocol import EMBEDDED, JOINT, PPG, PQPP, RELEASED, Dialect, PoissonDisk, replay
from sam4mllm_tool.types import ObjectPrompt, Reply, Size, Turn
from tests.data.layouts import (
    SQUARE,
    SQUARE_XYWH,
    annotation,
    coco_name,
    reference,
    write_family,
    write_image,
    write_json,
    write_pickle,
)
from tests.embedded_world import draw_scene

PQPP_ONLY = Recipe(dialect=JOINT, ppg=0)
WITH_PPG = Recipe(dialect=EMBEDDED, groups=4)


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve drawn scenes with 84 expressions."""
    folder = tmp_path_factory.mktemp("scenes")
    write_scenes(folder, 12, seed=70)
    return folder


@pytest.fixture(scope="module")
def few_scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three small drawn scenes, for builds that run the segmenter."""
    folder = tmp_path_factory.mktemp("few")
    write_scenes(folder, 3, seed=70, side=160)
    return folder


@pytest.fixture(scope="module")
def built_with_ppg(few_scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_conversations(sources(few_scenes), tmp_path_factory.mktemp("built") / "out", WITH_PPG)


def sources(root: Path) -> list[Source]:
    return [Source("jsonl", root, "train")]


def manifest(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "manifest.json").read_text())


def conversations(folder: Path) -> Iterator[TrainingConversation]:
    return (conversation for line in read_conversations(folder) for conversation in line.conversations)


def expressions(scenes: Path) -> dict[str, str]:
    return {sample.id: sample.expression for sample in load_dataset("jsonl", scenes)}


def test_every_sample_gets_a_conversation_of_both_kinds(few_scenes: Path, built_with_ppg: Path) -> None:
    lines = [json.loads(line) for line in (few_scenes / "scenes.jsonl").read_text().splitlines()]
    counts, written = Counter(conversation.kind for conversation in conversations(built_with_ppg)), manifest(built_with_ppg)
    assert counts["pqpp"] == written["counts"]["samples"] == len(lines)
    assert counts["pqpp"] - counts["ppg"] == sum(written["dropped"].values())
    assert written["counts"]["absent"] == sum(not line["objects"] for line in lines) > 0
    assert written["sha256"] == hashlib.sha256((built_with_ppg / CONVERSATIONS_FILE).read_bytes()).hexdigest()


def test_image_paths_are_relative_to_the_folder(scenes: Path, tmp_path: Path) -> None:
    out = build_conversations(sources(scenes), tmp_path / "deep" / "out", PQPP_ONLY)
    for line in read_conversations(out):
        assert not Path(line.image).is_absolute()
        assert (out / line.image).is_file()


@pytest.mark.parametrize("dialect", [JOINT, RELEASED, EMBEDDED], ids=lambda dialect: dialect.name)
def test_conversations_replay_through_inference_byte_for_byte(few_scenes: Path, tmp_path: Path, dialect: Dialect) -> None:
    recipe = replace(WITH_PPG, dialect=dialect, groups=2)
    out = build_conversations(sources(few_scenes), tmp_path / "out", recipe)
    texts = expressions(few_scenes)
    for conversation in conversations(out):
        method = PPG if conversation.kind == "ppg" else PQPP
        dialogue = method.start(texts[conversation.sample], Size(160, 160), dialect=dialect)
        user_turn, reply = conversation.turns[len(dialect.start()) :][:2]
        (question,) = dialogue.pending
        assert question.turns == (*dialect.start(), user_turn)
        dialogue = dialogue.answer([Reply(reply.text)])
        assert len(dialogue.prompts) == reply.text.count("[")
        if conversation.kind == "ppg":
            assert not dialogue.pending


def test_point_questions_asked_one_at_a_time_are_branches(scenes: Path, tmp_path: Path) -> None:
    out = build_conversations(sources(scenes), tmp_path / "out", replace(WITH_PPG, ppg=0))
    present = [conversation for conversation in conversations(out) if "[" in conversation.turns[-1].text]
    assert {len(conversation.turns) for conversation in present} <= {2, 4}  # 4: a single point follows without a branch
    assert any(conversation.branches for conversation in present)
    assert all(branch[1].text in ("yes", "no") for conversation in present for branch in conversation.branches)


def test_the_number_of_points_varies_within_its_limits(scenes: Path, tmp_path: Path) -> None:
    out = build_conversations(sources(scenes), tmp_path / "out", replace(PQPP_ONLY, point_most=12, point_least=8))
    turns = (turn.text for conversation in conversations(out) for turn in conversation.turns)
    counts = {text.split("?")[1].count("(") for text in turns if "on the object" in text}
    assert counts <= set(range(8, 13))
    assert len(counts) > 2


@pytest.mark.parametrize(
    "recipe", [pytest.param(PQPP_ONLY, id="PQPP"), pytest.param(WITH_PPG, id="PPG", marks=pytest.mark.slow)]
)
def test_the_same_seed_gives_the_same_bytes_in_one_process_and_in_two(few_scenes: Path, tmp_path: Path, recipe: Recipe) -> None:
    once = build_conversations(sources(few_scenes), tmp_path / "once", recipe)
    again = build_conversations(sources(few_scenes), tmp_path / "again", recipe, processes=2)
    assert (once / CONVERSATIONS_FILE).read_bytes() == (again / CONVERSATIONS_FILE).read_bytes()
    assert manifest(once) == manifest(again)
    other = build_conversations(sources(few_scenes), tmp_path / "other", replace(recipe, seed=1))
    assert (once / CONVERSATIONS_FILE).read_bytes() != (other / CONVERSATIONS_FILE).read_bytes()


BUILD_SCRIPT = """
import sys
from pathlib import Path
from sam4mllm_tool.data import build
from sam4mllm_tool.data.conversation_builder import Recipe
from sam4mllm_tool.protocol import JOINT
if __name__ == "__main__":
    build._SAVE_INTERVAL = 3
    scenes, out, processes = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
    build.build_conversations([build.Source("jsonl", scenes)], out, Recipe(dialect=JOINT, ppg=0), processes=processes)
"""


def start_build(folder: Path, processes: int) -> subprocess.Popen[str]:
    """Start a build of many small scenes in a process of its own and wait until it has saved its progress."""
    write_scenes(folder / "scenes", 100, seed=300, side=160)
    (folder / "build_script.py").write_text(BUILD_SCRIPT)
    words = ["build_script.py", "scenes", "out", str(processes)]
    environment = os.environ | {"PYTHONPATH": str(Path.cwd())}
    build = subprocess.Popen([sys.executable, *words], cwd=folder, stderr=subprocess.PIPE, text=True, env=environment)
    while not (folder / "out" / PROGRESS_FILE).exists() and build.poll() is None:
        time.sleep(0.005)
    return build


@pytest.mark.slow
def test_a_killed_build_continues_to_the_same_bytes(tmp_path: Path) -> None:
    build = start_build(tmp_path, processes=1)
    build.kill()
    build.communicate()
    out = tmp_path / "out"
    assert build.returncode == -signal.SIGKILL
    assert not (out / CONVERSATIONS_FILE).exists()
    with (out / f"{CONVERSATIONS_FILE}.part").open("a") as part:
        part.write('{"id": "half a li')
    assert build_conversations(sources(tmp_path / "scenes"), out, PQPP_ONLY) == out
    whole = build_conversations(sources(tmp_path / "scenes"), tmp_path / "whole", PQPP_ONLY)
    assert (out / CONVERSATIONS_FILE).read_bytes() == (whole / CONVERSATIONS_FILE).read_bytes()
    assert manifest(out) == manifest(whole)
    assert not (out / PROGRESS_FILE).exists()


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="child processes are listed by /proc")
@pytest.mark.parametrize("victim", ["the parent", "a worker"])
def test_killing_a_process_ends_all_others(tmp_path: Path, victim: str) -> None:
    build = start_build(tmp_path, processes=2)
    workers = list_workers(build.pid)
    assert len(workers) == 2
    os.kill(build.pid if victim == "the parent" else workers[0], signal.SIGKILL)
    _, errors = build.communicate()
    if victim == "a worker":
        assert "BackendError: a process of the build died" in errors
    while any(map(is_running, workers)):
        time.sleep(0.05)


def list_workers(parent: int) -> list[int]:
    children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    return [int(child) for child in children if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes()]


def is_running(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def settings_of(folder: Path) -> dict[str, Any]:
    """Return the part of the manifest that describes what was asked for, which progress.json holds too."""
    keys = ("format", "sources", "vqa", "held_out_roots", "held_out", "data", "recipe")
    return {key: manifest(folder)[key] for key in keys}


def test_a_build_without_its_part_file_starts_again(scenes: Path, tmp_path: Path) -> None:
    whole = build_conversations(sources(scenes), tmp_path / "whole", PQPP_ONLY)
    out = tmp_path / "out"
    tally = {"pictures": 6, "counts": {"lessons": 9}, "dropped": {}, "first_dropped": []}
    write_json(out / PROGRESS_FILE, {"order": settings_of(whole), "bytes": 5000, "tally": tally})
    build_conversations(sources(scenes), out, PQPP_ONLY)
    assert (out / CONVERSATIONS_FILE).read_bytes() == (whole / CONVERSATIONS_FILE).read_bytes()
    assert manifest(out) == manifest(whole)


def test_samples_of_an_image_share_a_line_up_to_the_limits(scenes: Path, tmp_path: Path) -> None:
    few_samples = build_conversations(sources(scenes), tmp_path / "samples", replace(PQPP_ONLY, references=2))
    assert max(len(line.conversations) for line in read_conversations(few_samples)) == 2
    few_tokens = build_conversations(sources(scenes), tmp_path / "tokens", replace(PQPP_ONLY, tokens=1))
    assert {len(line.conversations) for line in read_conversations(few_tokens)} == {1}


def test_vqa_conversations_get_the_recipes_share(scenes: Path, tmp_path: Path) -> None:
    records = [
        {"image": str(scenes / f"scene-{70 + n % 12:07d}.png"), "conversations": vqa_turns("How many?", str(n))}
        for n in range(9)
    ]
    vqa = [Source("vqa", write_json(tmp_path / "llava.json", records))]
    out = build_conversations(sources(scenes), tmp_path / "out", replace(PQPP_ONLY, vqa=0.25), vqa=vqa)
    assert manifest(out)["counts"]["vqa"] == 4  # 12 images with masks are three quarters of 16
    answers = [conversation.turns[1].text for conversation in conversations(out) if conversation.kind == "vqa"]
    assert answers == ["0", "1", "2", "3"]


def vqa_turns(question: str, answer: str) -> list[dict[str, str]]:
    return [{"from": "human", "value": f"<image>\n{question}"}, {"from": "gpt", "value": answer}]


def test_exhausted_vqa_datasets_are_reported(scenes: Path, tmp_path: Path) -> None:
    record = {"image": str(scenes / "scene-0000070.png"), "conversations": vqa_turns("How many?", "two")}
    vqa = [Source("vqa", write_json(tmp_path / "llava.json", [record]))]
    out = build_conversations(sources(scenes), tmp_path / "out", replace(PQPP_ONLY, vqa=0.25), vqa=vqa)
    assert manifest(out)["counts"]["short of vqa"] == 3
    assert describe_problems(out) == ["the VQA datasets were exhausted: 3 images fewer than the recipe's share"]
    assert is_clean(out)


def test_a_finished_build_is_kept_and_another_recipe_is_refused(scenes: Path, tmp_path: Path) -> None:
    out = build_conversations(sources(scenes), tmp_path / "out", PQPP_ONLY)
    before = (out / CONVERSATIONS_FILE).stat().st_mtime_ns
    assert build_conversations(sources(scenes), out, PQPP_ONLY) == out
    assert (out / CONVERSATIONS_FILE).stat().st_mtime_ns == before
    with pytest.raises(DataError, match="recipe differ"):
        build_conversations(sources(scenes), out, replace(PQPP_ONLY, seed=5))


def test_former_names_still_work_and_warn(tmp_path: Path) -> None:
    with pytest.warns(DeprecationWarning, match="build_conversations"):
        out = build_lessons(own_data(tmp_path / "own", [{"image": "a.jpg"}]), tmp_path / "out", PQPP_ONLY)
    with pytest.warns(DeprecationWarning, match="read_conversations"):
        assert list(read_lessons(out)) == list(read_conversations(out))
    with pytest.warns(DeprecationWarning, match="verify_conversations"):
        assert verify_lessons(out) == verify_conversations(out)


@pytest.mark.slow
def test_ppg_keeps_the_groups_with_the_best_masks(few_scenes: Path, tmp_path: Path) -> None:
    """The mean IoU increases with the number of groups that are tried."""
    means = []
    for groups in (1, 16):
        recipe = Recipe(dialect=EMBEDDED, pqpp=0, groups=groups)
        out = build_conversations(sources(few_scenes), tmp_path / str(groups), recipe)
        ious = [conversation.iou for conversation in conversations(out) if conversation.iou is not None]
        assert all(0 <= iou <= 1 for iou in ious)
        means.append(sum(ious) / len(ious))
    assert means[1] > means[0] + 0.005


@pytest.mark.slow
def test_the_kept_group_is_the_best_of_all_within_a_small_tolerance() -> None:
    """The groups are ranked here by their full masks, without the shortlist."""
    segmenter = load_segmenter("embedded")
    for seed in (11, 12, 13):
        scene = draw_scene(seed, 256)
        image, mask, box = Image.fromarray(scene.image), scene.mask(0), scene.objects[0].box
        groups = draw_point_groups(mask, box, EMBEDDED, Random(seed), count=64, on=2, off=1)
        prompts = [ObjectPrompt(EMBEDDED.snap_box(box, Size(256, 256)), points) for points in groups]
        ious = [mask_iou(segmented.mask, mask) for segmented in segmenter.segment(image, prompts)]
        (kept,) = select_point_groups(image, mask, box, segmenter, EMBEDDED, Random(seed))
        assert kept.iou == pytest.approx(ious[groups.index(kept.points)])
        assert kept.iou >= max(ious) - 0.004
        assert kept.iou > sum(ious) / len(ious)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("jsonl:data", Source("jsonl", Path("data"), "train"), id="train by default"),
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
def test_a_source_is_written_as_name_root_split(text: str, expected: Source) -> None:
    assert Source.parse(text) == expected


@pytest.mark.parametrize("text", ["jsonl", "jsonl:", ":data"])
def test_an_incomplete_source_is_an_error(text: str) -> None:
    with pytest.raises(DataError, match="expected NAME:ROOT"):
        Source.parse(text)


def test_a_damaged_line_is_an_error_with_file_and_line(tmp_path: Path) -> None:
    valid = ImageConversations("1", "a.png", ()).to_json()
    (tmp_path / CONVERSATIONS_FILE).write_text(f'{valid}\n{{"id": 2}}\n')
    with pytest.raises(DataError, match=r"lessons.jsonl, line 2: not a training conversation: KeyError"):
        list(read_conversations(tmp_path))


def test_the_second_question_is_the_dialogues_own(scenes: Path, tmp_path: Path) -> None:
    """The question after the boxes begins as in inference; the points differ."""
    out = build_conversations(sources(scenes), tmp_path / "out", replace(PQPP_ONLY, dialect=RELEASED))
    conversation = next(conversation for conversation in conversations(out) if len(conversation.turns) == 5)
    expression = expressions(scenes)[conversation.sample]
    dialogue = PQPP.start(expression, Size(256, 256), dialect=RELEASED, sampler=PoissonDisk())
    (question,) = replay(dialogue, [[Reply(conversation.turns[2].text)]]).pending
    assert first_part(question.turns[-1]) == first_part(conversation.turns[3])


def first_part(turn: Turn) -> str:
    return turn.text.split(":\n")[0]


@pytest.fixture
def family(tmp_path: Path) -> Path:
    """Eight images in RefCOCO's train split, three of which are held out by the rest of its family."""
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


def test_held_out_images_are_left_out_of_every_dataset_and_verified(family: Path, tmp_path: Path) -> None:
    images = [coco_name(number) for number in (2, 4, 5)]
    turns = vqa_turns("What is it?", "a square")
    write_json(family / "conversations.json", [{"id": name, "image": name, "conversations": turns} for name in images])
    vqa = [Source("vqa", family, "train")]
    recipe = replace(PQPP_ONLY, vqa=0.4)
    out = build_conversations([Source("refcoco", family, "train")], tmp_path / "out", recipe, vqa=vqa)
    assert {line.image_id for line in read_conversations(out)} == {f"coco:{number}" for number in (1, 3, 5, 7, 8)}
    assert manifest(out)["counts"]["held out"] == 3 + 2
    assert manifest(out)["counts"]["vqa"] == 1
    assert manifest(out)["held_out"]["images"] == 3
    assert "none among the conversations (by 4 files)" in verify_conversations(out)[-1]


def test_verifying_finds_a_held_out_image(family: Path, tmp_path: Path) -> None:
    write_family(
        tmp_path / "alone",
        [reference(2, 2, 2, "train", "it")],
        [annotation(2, 2, [SQUARE], SQUARE_XYWH)],
    )
    alone = [Source("refcoco", tmp_path / "alone", "train")]
    out = build_conversations(alone, tmp_path / "out", PQPP_ONLY)
    assert "(by 1 file)" in verify_conversations(out)[-1]
    with pytest.raises(DataError, match=r"is about coco:2 .*, which is held out"):
        verify_conversations(out, [family])
    with pytest.raises(DataError, match="every image is held out"):
        build_conversations(alone, tmp_path / "none", PQPP_ONLY, held_out=[family])


def test_verifying_finds_a_changed_file(scenes: Path, tmp_path: Path) -> None:
    out = build_conversations(sources(scenes), tmp_path / "out", PQPP_ONLY)
    assert verify_conversations(out)[0].endswith("(84 pqpp conversations)")
    path = out / CONVERSATIONS_FILE
    whole = path.read_text()
    path.write_text(whole.replace("[", "[ ", 1))
    with pytest.raises(DataError, match="differs from the file that"):
        verify_conversations(out)
    path.write_text(whole.partition("\n")[2])
    with pytest.raises(DataError, match="differs from its manifest"):
        verify_conversations(out)


def own_data(folder: Path, lines: list[dict[str, Any]]) -> list[Source]:
    """Write users' own data about grey images without an object."""
    for line in lines:
        write_image(folder / line["image"])
    text = "".join(json.dumps({"expression": "it", "objects": []} | line) + "\n" for line in lines)
    (folder / "scenes.jsonl").write_text(text)
    return sources(folder)


@pytest.mark.parametrize(
    "line",
    [
        pytest.param({"image": "a.jpg", "image_id": "2"}, id="digits"),
        pytest.param({"image": "a.jpg", "image_id": 2}, id="a number"),
        pytest.param({"image": "a.jpg", "image_id": "000000000002"}, id="with zeros"),
        pytest.param({"image": "a.jpg", "image_id": "coco:02"}, id="COCO's"),
        pytest.param({"image": coco_name(2)}, id="the file's name"),
        pytest.param({"image": coco_name(2), "image_id": "kitchen"}, id="the file's name with another id"),
        pytest.param({"image": coco_name(3), "image_id": "coco:2"}, id="the id with another file name"),
    ],
)
def test_a_held_out_image_is_recognised_by_its_number_or_its_file_name(
    family: Path, tmp_path: Path, line: dict[str, Any]
) -> None:
    own = own_data(tmp_path / "own", [line, {"image": "free.jpg"}])
    out = build_conversations(own, tmp_path / "out", PQPP_ONLY, held_out=[family])
    assert [Path(line.image).name for line in read_conversations(out)] == ["free.jpg"]
    assert manifest(out)["counts"]["held out"] == 1
    whole = build_conversations(own, tmp_path / "whole", PQPP_ONLY)
    with pytest.raises(DataError, match="is held out"):
        verify_conversations(whole, [family])


def test_held_out_roots_do_not_depend_on_the_working_directory(
    family: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own_data(tmp_path / "own", [{"image": "a.jpg"}])
    monkeypatch.chdir(tmp_path)
    out = build_conversations(sources(Path("own")), tmp_path / "out", PQPP_ONLY, held_out=[Path("family")])
    monkeypatch.chdir("/")
    assert "(by 4 files)" in verify_conversations(out)[-1]
    assert manifest(out)["held_out_roots"] == [str(family)]
    assert build_conversations(sources(tmp_path / "own"), out, PQPP_ONLY, held_out=[family]) == out


def test_no_fewer_images_may_be_held_out_than_when_built(family: Path, tmp_path: Path) -> None:
    out = build_conversations(own_data(tmp_path / "own", [{"image": "a.jpg"}]), tmp_path / "out", PQPP_ONLY, held_out=[family])
    held_out = manifest(out)["held_out"]
    assert [Path(file).name for file in held_out["files"]] == ["refs(unc).p", "refs(unc).p", "refs(umd).p", "grefs(unc).json"]
    assert held_out["images"] == 3
    moved = family.rename(tmp_path / "moved")
    with pytest.raises(DataError, match=r"refs\(unc\)\.p.*does not exist: name the root .* by --held-out"):
        verify_conversations(out)
    assert "(by 4 files)" in verify_conversations(out, [moved])[-1]
    (moved / "refcoco+" / "refs(unc).p").unlink()
    with pytest.raises(DataError, match="2 images are held out, 3 were"):
        verify_conversations(out, [moved])
    moved.rename(family)
    write_pickle(family / "refcoco+" / "refs(unc).p", [reference(1, 7, 7, "testA", "it")])
    with pytest.raises(DataError, match=r"refs\(unc\)\.p changed since"):
        verify_conversations(out)


def test_a_given_root_must_hold_reference_files(scenes: Path, tmp_path: Path) -> None:
    out = build_conversations(sources(scenes), tmp_path / "out", PQPP_ONLY)
    for call in (
        lambda: build_conversations(sources(scenes), tmp_path / "other", PQPP_ONLY, held_out=[tmp_path]),
        lambda: verify_conversations(out, [tmp_path / "nowhere"]),
    ):
        with pytest.raises(DataError, match=r"holds no reference file of the RefCOCO family: expected refcoco/refs\(\*\)\.p"):
            call()


def test_problems_of_sources_with_the_same_name_are_kept_apart(tmp_path: Path) -> None:
    both = [*own_data(tmp_path / "a", [{"image": "a.jpg"}]), *own_data(tmp_path / "b", [{"image": "b.jpg"}])]
    for root, invalid in (("a", '{"image": "a.jpg"}\n'), ("b", "not JSON\n")):
        with (tmp_path / root / "scenes.jsonl").open("a") as lines:
            lines.write(invalid)
    out = build_conversations(both, tmp_path / "out", PQPP_ONLY)
    assert [Path(read["root"]).name for read in manifest(out)["read"]] == ["a", "b"]
    assert not is_clean(out)
    lines = "\n".join(describe_problems(out))
    assert f"while reading jsonl:{tmp_path / 'a'}:train: 1 dropped: the expression is empty or not a text" in lines
    assert f"while reading jsonl:{tmp_path / 'b'}:train: 1 dropped: the line is not JSON" in lines
    assert f"{tmp_path / 'b' / 'scenes.jsonl'}, line 2" in lines


def test_reasons_by_choice_in_former_words_are_no_problem(tmp_path: Path) -> None:
    out = build_conversations(own_data(tmp_path / "own", [{"image": "a.jpg"}]), tmp_path / "out", PQPP_ONLY)
    written = manifest(out)
    former = {"fate": "dropped", "what": "a thing of the class is too small in the picture", "count": 3}
    write_json(out / "manifest.json", written | {"read": [written["read"][0] | {"counts": [former]}]})
    assert is_clean(out)
    assert describe_problems(out) == []


def test_a_sample_that_can_not_be_used_is_dropped_and_the_command_exits_with_1(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own_data(tmp_path / "own", [{"image": "a.jpg"}])
    command = ["data", "build", "--data", f"jsonl:{tmp_path / 'own'}", "--ppg", "0", "--out"]
    assert main([*command, str(tmp_path / "good")]) == 0
    own_data(tmp_path / "own", [{"image": "a.jpg"}, {"image": "a.jpg", "expression": "x" * 5000}])
    capsys.readouterr()
    assert main([*command, str(tmp_path / "bad")]) == 1
    assert "5,000 characters" in capsys.readouterr().err.splitlines()[-1]
    written = manifest(tmp_path / "bad")
    assert written["counts"]["pqpp"] == sum(written["dropped"].values()) == 1
    assert "5,000 characters" in written["first_dropped"][0]


def test_a_build_without_a_valid_sample_is_an_error(tmp_path: Path) -> None:
    own = own_data(tmp_path / "own", [{"image": "a.jpg", "expression": "x" * 5000}])
    with pytest.raises(DataError, match=r"no sample can be trained on.*5,000"):
        build_conversations(own, tmp_path / "out", PQPP_ONLY)
    assert not (tmp_path / "out" / CONVERSATIONS_FILE).exists()


@pytest.mark.parametrize("processes", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_missing_segmenter_is_an_error_from_any_process(few_scenes: Path, tmp_path: Path, processes: int) -> None:
    recipe = replace(WITH_PPG, segmenter="/nowhere")
    with pytest.raises(SpecError, match="nowhere"):
        build_conversations(sources(few_scenes), tmp_path / "out", recipe, processes=processes)


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"order": 3, "bytes": 1, "tally": {}}'])
def test_a_build_with_damaged_progress_starts_again(tmp_path: Path, content: str) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / PROGRESS_FILE).write_text(content)
    (out / f"{CONVERSATIONS_FILE}.part").write_text("half a li")
    build_conversations(own_data(tmp_path / "own", [{"image": "a.jpg"}]), out, PQPP_ONLY)
    assert len(list(read_conversations(out))) == 1
    assert not (out / PROGRESS_FILE).exists()


def test_a_build_whose_datasets_changed_is_refused(tmp_path: Path) -> None:
    own = own_data(tmp_path / "own", [{"image": "a.jpg"}])
    out = build_conversations(own, tmp_path / "out", PQPP_ONLY)
    tally = {"pictures": 0, "counts": {}, "dropped": {}, "first_dropped": []}
    write_json(tmp_path / "cut" / PROGRESS_FILE, {"order": settings_of(out), "bytes": 0, "tally": tally})
    (out / PROGRESS_FILE).write_text("{}")  # left behind by an interruption at the very end
    assert build_conversations(own, out, PQPP_ONLY) == out
    assert not (out / PROGRESS_FILE).exists()
    own_data(tmp_path / "own", [{"image": "a.jpg"}, {"image": "b.jpg"}])
    for folder in (out, tmp_path / "cut"):
        with pytest.raises(DataError, match="the datasets' files changed since"):
            build_conversations(own, folder, PQPP_ONLY)


def test_options_reach_the_readers(family: Path, tmp_path: Path) -> None:
    (family / "images").rename(tmp_path / "elsewhere")
    option = f"images={tmp_path / 'elsewhere' / 'train2014'}"
    command = ["data", "build", "--ppg", "0", "--data"]
    assert main([*command, f"refcoco:{family}", "--option", option, "--out", str(tmp_path / "all")]) == 0
    assert main([*command, f"refcoco:{family}:train?{option}", "--out", str(tmp_path / "one")]) == 0
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
def test_an_invalid_recipe_is_an_error(settings: dict[str, Any]) -> None:
    with pytest.raises(DataError, match=r"the recipe is not valid: expected .*(point|off)"):
        Recipe.of(JOINT, settings)


def test_fewer_than_one_process_is_an_error(scenes: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="at least 1 process, got 0"):
        build_conversations(sources(scenes), tmp_path, PQPP_ONLY, processes=0)
