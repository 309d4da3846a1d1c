"""Conversations about images, without masks: LLaVA's files, and VQAv2's questions with their answers.

They preserve an MLLM's general ability during fine-tuning. The root holds either kind of file:
```
llava_v1_5_mix665k.json or llava_instruct_150k.json     [{id, image, conversations: [{from: human | gpt, value}]}]
v2_OpenEnded_mscoco_<split>2014_questions.json          {questions: [{question_id, image_id, question}]}
v2_mscoco_<split>2014_annotations.json                  {annotations: [{question_id, multiple_choice_answer}]}
```
Options set other places. The files are streamed; of VQAv2 only the answers, one word each, are kept by question number.
Images named by COCO's number get its `coco:` image_id, by which held-out images are recognised. Some images of Visual Genome
and GQA are COCO's under other numbers, which the files don't translate: leave these datasets out where that matters.
"""

from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from sys import intern
from typing import Any, Literal

from sam4mllm_tool.data.annotations import RegionError
from sam4mllm_tool.data.json_stream import stream_arrays
from sam4mllm_tool.data.reader import Reader, coco_image_id, read_image_size
from sam4mllm_tool.data.sample import Problems, Sample
from sam4mllm_tool.errors import DataError
from sam4mllm_tool.types import Size, Turn

__all__ = ["Vqa"]

_LLAVA = ("llava_v1_5_mix665k.json", "llava_instruct_150k.json", "conversations.json")
_QUESTIONS = ("v2_OpenEnded_mscoco_{}2014_questions.json", "questions.json")
_ANNOTATIONS = ("v2_mscoco_{}2014_annotations.json", "annotations.json")
_ROLES: dict[str, Literal["user", "assistant"]] = {"human": "user", "gpt": "assistant"}
_HINT = "Answer the question using a single word or phrase."
_COCO_FOLDERS = ("train2014", "val2014", "train2017", "val2017", "test2015")
_LocatedImage = tuple[Path, Size] | RegionError


class Vqa(Reader):
    """One sample per conversation, with `turns` and without an expression.

    Args:
        root: The folder, or LLaVA's file itself.
        split: The split's name. LLaVA's files are a train split; they are read for another split where they are named.
        conversations: LLaVA's file, where the root doesn't hold it under its published name.
        questions: VQAv2's questions, where the root doesn't hold them under their published name.
        annotations: VQAv2's answers, where the root doesn't hold them under their published name.
        images: The folder of the images.
        hint: A line that follows VQAv2's questions, so that one-word answers aren't learnt as the answer to any question. The
            default is LLaVA-1.5's.

    Raises:
        DataError: Neither kind of file exists.
    """

    name = "vqa"

    def __init__(
        self,
        root: Path,
        split: str = "train",
        *,
        conversations: Path | str | None = None,
        questions: Path | str | None = None,
        annotations: Path | str | None = None,
        images: Path | str | None = None,
        hint: str = _HINT,
    ) -> None:
        super().__init__(root, split)
        self._hint = hint
        if root.is_file():
            conversations, root = conversations or root, root.parent
        self._conversations = Path(conversations) if conversations else None
        self._questions = Path(questions) if questions else _first_file(root, _QUESTIONS, split)
        if not self._conversations and not self._questions and split == "train":
            self._conversations = _first_file(root, _LLAVA, split)
        if not self._conversations and not self._questions:
            expected = [name.format(split) for name in (*_QUESTIONS, *(_LLAVA if split == "train" else ()))]
            raise DataError(f"{root} holds none of {', '.join(expected)}; set the option 'conversations' or 'questions'")
        self._annotations = Path(annotations) if annotations else _first_file(root, _ANNOTATIONS, split)
        if not self._conversations and not self._annotations:
            name = _ANNOTATIONS[0].format(split)
            raise DataError(f"{root} holds no {name}, which has the answers; set the option 'annotations'")
        self._folders = _image_folders(Path(images) if images else root)

    def index_files(self) -> tuple[Path, ...]:
        """Return the file of conversations, or the files of questions and answers."""
        files = (self._conversations,) if self._conversations else (self._questions, self._annotations)
        return tuple(path for path in files if path)

    def _samples(self, problems: Problems) -> Iterator[Sample]:
        locate = lru_cache(maxsize=256)(self._locate_image)
        samples = self._llava_samples(locate) if self._conversations else self._vqa_v2_samples(locate)
        for where, sample in samples:
            if isinstance(sample, RegionError):
                problems.add("dropped", sample.what, where, sample.detail)
            else:
                yield sample

    def _llava_samples(self, locate: Callable[[str], _LocatedImage]) -> Iterator[tuple[str, Sample | RegionError]]:
        assert self._conversations is not None
        for number, (_, record) in enumerate(stream_arrays(self._conversations)):
            where = f"{self._conversations}, record {number}"
            try:
                yield where, self._sample(f"vqa-{number}", _read_image_name(record), _read_turns(record), locate)
            except RegionError as error:
                yield where, error

    def _vqa_v2_samples(self, locate: Callable[[str], _LocatedImage]) -> Iterator[tuple[str, Sample | RegionError]]:
        assert self._questions is not None
        assert self._annotations is not None
        answers = _read_answers(self._annotations)
        for _, record in stream_arrays(self._questions, "questions"):
            where = f"{self._questions}, question {record.get('question_id') if isinstance(record, dict) else record!r:.50}"
            try:
                number, image, question = _read_question(record)
                if number not in answers:
                    raise RegionError("the question has no answer")
                text = f"{question}\n{self._hint}" if self._hint else question
                turns = (Turn("user", text), Turn("assistant", answers[number]))
                yield where, self._sample(f"vqa-{number}", f"{image:012d}.jpg", turns, locate)
            except RegionError as error:
                yield where, error

    def _sample(self, name: str, image: str, turns: tuple[Turn, ...], locate: Callable[[str], _LocatedImage]) -> Sample:
        located = locate(image)
        if isinstance(located, RegionError):
            raise located
        path, size = located
        image_id = coco_image_id(image) or f"vqa:{image}"
        return Sample(name, path, "", size, kind="vqa", split=self.split, image_id=image_id, source=self.name, turns=turns)

    def _locate_image(self, image: str) -> _LocatedImage:
        """Return the image's path, under the given name or COCO's longer one, and its size."""
        for folder in self._folders:
            for name in _possible_names(image, folder.name):
                if (folder / name).is_file():
                    size = read_image_size(folder / name)
                    return RegionError(size, str(folder / name)) if isinstance(size, str) else (folder / name, size)
        return RegionError("the image does not exist", str(self._folders[0] / image))


def _first_file(root: Path, names: tuple[str, ...], split: str) -> Path | None:
    return next((path for name in names if (path := root / name.format(split)).is_file()), None)


def _image_folders(root: Path) -> tuple[Path, ...]:
    parents = (root, root / "images")
    folders = (*parents, *(parent / name for parent in parents for name in _COCO_FOLDERS))
    return tuple(folder for folder in folders if folder.is_dir()) or (root,)


def _possible_names(image: str, folder: str) -> tuple[str, ...]:
    """List the file's names: COCO's images of 2014 have their folder in their name, which records may omit."""
    short = image.replace("\\", "/").rsplit("/", 1)[-1]
    return (image, short, f"COCO_{folder}_{short}") if coco_image_id(image) else (image,)


def _read_image_name(record: Any) -> str:
    image = record.get("image") if isinstance(record, dict) else None
    if not isinstance(image, str) or not image:
        raise RegionError("the conversation has no image")
    return image


def _read_turns(record: Mapping[str, Any]) -> tuple[Turn, ...]:
    """Read the turns without the image's placeholder: the image always goes with the first turn."""
    try:
        turns = tuple(
            Turn(_ROLES[turn["from"]], turn["value"].replace("<image>", "").strip()) for turn in record["conversations"]
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise RegionError("a turn is malformed", f"{type(error).__name__}: {error}") from error
    if not turns or len(turns) % 2 or any(turn.role != ("user", "assistant")[i % 2] for i, turn in enumerate(turns)):
        raise RegionError("the turns do not alternate between question and answer")
    if not all(turn.text for turn in turns):
        raise RegionError("a turn is empty")
    return turns


def _read_answers(path: Path) -> dict[int, str]:
    try:
        return {
            int(record["question_id"]): intern(str(record["multiple_choice_answer"]))
            for _, record in stream_arrays(path, "annotations")
        }
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{path} has an annotation without question_id or multiple_choice_answer: {error!r}") from error


def _read_question(record: Any) -> tuple[int, int, str]:
    try:
        number, image, question = int(record["question_id"]), int(record["image_id"]), str(record["question"]).strip()
    except (KeyError, TypeError, ValueError) as error:
        raise RegionError("the question is malformed", f"{type(error).__name__}: {error}") from error
    if not question:
        raise RegionError("the question is empty")
    return number, image, question
