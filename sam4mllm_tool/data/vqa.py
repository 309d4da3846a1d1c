"""Conversations about pictures, without masks: LLaVA's files, and VQAv2's questions with their answers.

They keep an MLLM's general ability while it learns the dialogue. Either kind of file, in the root:
```
llava_v1_5_mix665k.json or llava_instruct_150k.json     [{id, image, conversations: [{from: human | gpt, value}]}]
v2_OpenEnded_mscoco_<split>2014_questions.json          {questions: [{question_id, image_id, question}]}
v2_mscoco_<split>2014_annotations.json                  {annotations: [{question_id, multiple_choice_answer}]}
```
Other places by option. The files are streamed; of VQAv2 the answers, a word each, are held by the question's number.
Pictures named by COCO's number have its `coco:` image_id, and so are known as held out. Visual Genome's and GQA's pictures
are COCO's in part, under other numbers that the files don't translate: leave them out where that matters.
"""

from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from sys import intern
from typing import Any, Literal

from sam4mllm_tool.data.annotations import RegionError
from sam4mllm_tool.data.json_stream import stream_arrays
from sam4mllm_tool.data.reader import Reader, coco_image_id, picture_size
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
_Found = tuple[Path, Size] | RegionError


class Vqa(Reader):
    """A sample a picture's conversation, with `turns` and no expression.

    root: the folder, or LLaVA's file itself. conversations: LLaVA's file; questions and annotations: VQAv2's; where they are
    not in the root by their published names. images: the folder of the pictures. hint: what follows VQAv2's questions, on a
    line of its own, so that their one-word answers are not taken for the way to answer anything; LLaVA-1.5's words.
    LLaVA's files are a train split; as another they are read where they are named.
    Raises DataError where neither kind is there.
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
            wanted = [name.format(split) for name in (*_QUESTIONS, *(_LLAVA if split == "train" else ()))]
            raise DataError(f"{root} holds none of {', '.join(wanted)}; name the file by 'conversations' or 'questions'")
        self._annotations = Path(annotations) if annotations else _first_file(root, _ANNOTATIONS, split)
        if not self._conversations and not self._annotations:
            raise DataError(f"{root} holds no {_ANNOTATIONS[0].format(split)}: the answers; name it by 'annotations'")
        self._folders = _picture_folders(Path(images) if images else root)

    def index_files(self) -> tuple[Path, ...]:
        """The conversations, or the questions and their answers."""
        found = (self._conversations,) if self._conversations else (self._questions, self._annotations)
        return tuple(path for path in found if path)

    def _samples(self, problems: Problems) -> Iterator[Sample]:
        find = lru_cache(maxsize=256)(self._find)
        drawn = self._llava(find) if self._conversations else self._vqa_v2(find)
        for where, sample in drawn:
            if isinstance(sample, RegionError):
                problems.add("dropped", sample.what, f"{where} ({sample.detail})" if sample.detail else where)
            else:
                yield sample

    def _llava(self, find: Callable[[str], _Found]) -> Iterator[tuple[str, Sample | RegionError]]:
        assert self._conversations is not None
        for number, (_, record) in enumerate(stream_arrays(self._conversations)):
            where = f"{self._conversations}, record {number}"
            try:
                yield where, self._sample(f"vqa-{number}", _image_name(record), _turns(record), find)
            except RegionError as error:
                yield where, error

    def _vqa_v2(self, find: Callable[[str], _Found]) -> Iterator[tuple[str, Sample | RegionError]]:
        assert self._questions is not None
        assert self._annotations is not None
        answers = _read_answers(self._annotations)
        for key, record in stream_arrays(self._questions):
            if key != "questions":
                continue
            where = f"{self._questions}, question {record.get('question_id') if isinstance(record, dict) else record!r:.50}"
            try:
                number, image, question = _read_question(record)
                if number not in answers:
                    raise RegionError("the question has no answer")
                asked = f"{question}\n{self._hint}" if self._hint else question
                turns = (Turn("user", asked), Turn("assistant", answers[number]))
                yield where, self._sample(f"vqa-{number}", f"{image:012d}.jpg", turns, find)
            except RegionError as error:
                yield where, error

    def _sample(self, name: str, image: str, turns: tuple[Turn, ...], find: Callable[[str], _Found]) -> Sample:
        found = find(image)
        if isinstance(found, RegionError):
            raise found
        path, size = found
        image_id = coco_image_id(image) or f"vqa:{image}"
        return Sample(name, path, "", size, kind="vqa", split=self.split, image_id=image_id, source=self.name, turns=turns)

    def _find(self, image: str) -> _Found:
        """Where the picture lies, under the name it is told by or COCO's longer one, and its size."""
        for folder in self._folders:
            for name in _names(image, folder.name):
                if (folder / name).is_file():
                    size = picture_size(folder / name)
                    return RegionError(size, str(folder / name)) if isinstance(size, str) else (folder / name, size)
        return RegionError("the picture is not there", str(self._folders[0] / image))


def _first_file(root: Path, names: tuple[str, ...], split: str) -> Path | None:
    return next((path for name in names if (path := root / name.format(split)).is_file()), None)


def _picture_folders(root: Path) -> tuple[Path, ...]:
    tops = (root, root / "images")
    folders = (*tops, *(top / name for top in tops for name in _COCO_FOLDERS))
    return tuple(folder for folder in folders if folder.is_dir()) or (root,)


def _names(image: str, folder: str) -> tuple[str, ...]:
    """COCO's pictures of 2014 have their folder in their name; a file may name them without."""
    short = image.replace("\\", "/").rsplit("/", 1)[-1]
    return (image, short, f"COCO_{folder}_{short}") if coco_image_id(image) else (image,)


def _image_name(record: Any) -> str:
    image = record.get("image") if isinstance(record, dict) else None
    if not isinstance(image, str) or not image:
        raise RegionError("the conversation has no picture")
    return image


def _turns(record: Mapping[str, Any]) -> tuple[Turn, ...]:
    """Without the placeholder of the picture: it goes with the first turn unsaid."""
    try:
        turns = tuple(Turn(_ROLES[one["from"]], one["value"].replace("<image>", "").strip()) for one in record["conversations"])
    except (KeyError, TypeError, AttributeError) as error:
        raise RegionError("a turn is malformed", f"{type(error).__name__}: {error}") from error
    if not turns or len(turns) % 2 or any(turn.role != ("user", "assistant")[i % 2] for i, turn in enumerate(turns)):
        raise RegionError("the turns are not question and answer by turns")
    if not all(turn.text for turn in turns):
        raise RegionError("a turn is empty")
    return turns


def _read_answers(path: Path) -> dict[int, str]:
    try:
        return {
            int(record["question_id"]): intern(str(record["multiple_choice_answer"]))
            for key, record in stream_arrays(path)
            if key == "annotations"
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
