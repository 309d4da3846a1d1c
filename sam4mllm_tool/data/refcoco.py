"""RefCOCO, RefCOCO+, RefCOCOg and gRefCOCO: a sample per sentence.

Layout, as published:
```
root/refcoco/refs(unc).p        root/refcoco/instances.json        refcoco+ likewise
root/refcocog/refs(umd).p       root/refcocog/instances.json
root/grefcoco/grefs(unc).json   root/grefcoco/instances.json, or refcoco's
root/images/train2014/*.jpg     COCO's
```
The reference file is read when the reader is made, instances.json on the first iteration; of both, only what the split needs is
held. An iteration compares the box of each object with its mask's, without decoding polygons.
Where an object can't be used, its sentences are dropped: without it their truth would be another.
"""

from collections import Counter
from collections.abc import Iterator
from functools import cached_property, lru_cache
from pathlib import Path

from sam4mllm_tool.data.annotations import RegionError, need_pycocotools
from sam4mllm_tool.data.instances import Instances, read_instances
from sam4mllm_tool.data.reader import Reader, first_folder
from sam4mllm_tool.data.refs import Reference, read_references
from sam4mllm_tool.data.sample import Problems, Region, Sample
from sam4mllm_tool.errors import DataError
from sam4mllm_tool.types import Box

__all__ = ["GRefCoco", "RefCoco", "RefCocoPlus", "RefCocog"]


class RefCoco(Reader):
    """RefCOCO; the other sets of the family differ by their name and their files'.

    split_by: unc, umd or google: whose division into splits; where not given, the first of them that is there. images,
    annotations: the folder of the pictures and instances.json, where they are not in the layout's places.
    Raises DataError for a missing or corrupt file, or a split that the file has no references of; MissingExtraError.
    """

    name = "refcoco"
    _files = "refs({}).p"
    _split_bys: tuple[str, ...] = ("unc", "google")

    def __init__(
        self,
        root: Path,
        split: str = "train",
        *,
        split_by: str | None = None,
        images: Path | str | None = None,
        annotations: Path | str | None = None,
    ) -> None:
        super().__init__(root, split)
        need_pycocotools()
        folder = root / self.name if (root / self.name).is_dir() else root
        self.path, self.split_by = self._find(folder, split_by)
        self._instances_path = Path(annotations) if annotations else self._usual_instances(folder)
        if not self._instances_path.is_file():
            raise DataError(f"{self._instances_path} is not there; name another by the option 'annotations'")
        self._images = first_folder(Path(images)) if images else first_folder(*_usual_images(root, folder))
        self.references = _of_split(self.path, split)

    def _find(self, folder: Path, split_by: str | None) -> tuple[Path, str]:
        asked = (split_by,) if split_by else self._split_bys
        for one in asked:
            if (path := folder / self._files.format(one)).is_file():
                return path, one
        names = " or ".join(self._files.format(one) for one in asked)
        there = ", ".join(sorted(path.name for path in folder.iterdir())[:20]) or "nothing" if folder.is_dir() else "no folder"
        raise DataError(f"{folder} has no {names}, but {there}; expected the root that holds {self.name}/{names}")

    def _usual_instances(self, folder: Path) -> Path:
        return folder / "instances.json"

    def index_files(self) -> tuple[Path, ...]:
        """The references and the annotations."""
        return self.path, self._instances_path

    def units(self) -> int:
        """References of the split, which the published counts count."""
        return len(self.references)

    @cached_property
    def _instances(self) -> Instances:
        image_ids = {reference.image_id for reference in self.references}
        annotation_ids = {number for reference in self.references for number in reference.annotation_ids}
        return read_instances(self._instances_path, image_ids, annotation_ids)

    def _samples(self, problems: Problems) -> Iterator[Sample]:
        is_file = lru_cache(maxsize=None)(Path.is_file)
        for reference in self.references:
            where = f"{self.path}, reference {reference.id}"
            try:
                picture = self._instances.picture(reference.image_id)
                path = self._images / picture.file_name
                if not is_file(path):
                    raise RegionError("the picture is not there", str(path))
                objects = self._objects(reference, problems)
            except RegionError as error:
                for _ in reference.sentences:  # so that samples and dropped add up to the sentences
                    problems.add("dropped", error.what, f"{where} ({error.detail})" if error.detail else where)
                continue
            for sentence_id, expression in reference.sentences:
                if not expression:
                    problems.add("dropped", "the expression is empty or not a text", f"{where}, sentence {sentence_id}")
                    continue
                yield Sample(
                    id=f"{self.name}-{reference.id}-{sentence_id}",
                    image_path=path,
                    expression=expression,
                    size=picture.size,
                    boxes=tuple(box for box, _ in objects),
                    regions=tuple(region for _, region in objects),
                    kind=self._kind(len(objects)),
                    split=self.split,
                    image_id=f"coco:{reference.image_id}",
                    source=self.name,
                )

    def _objects(self, reference: Reference, problems: Problems) -> list[tuple[Box, Region]]:
        """From left to right: the file knows no order."""
        placed = [self._instances.placed(number, reference.image_id, problems) for number in reference.annotation_ids]
        return sorted(placed, key=lambda one: one[0])

    def _kind(self, objects: int) -> str:  # noqa: ARG002  # a set with kinds tells them by it
        return ""


class RefCocoPlus(RefCoco):
    """RefCOCO+: without words of place."""

    name = "refcoco+"
    _split_bys = ("unc",)


class RefCocog(RefCoco):
    """RefCOCOg: longer expressions. Google's division shares pictures between train and val, umd's doesn't."""

    name = "refcocog"
    _split_bys = ("umd", "google")


class GRefCoco(RefCoco):
    """gRefCOCO: one object, several or none. kind: "single-target", "multi-target" or "no-target"."""

    name = "grefcoco"
    _files = "grefs({}).json"
    _split_bys = ("unc",)

    def _usual_instances(self, folder: Path) -> Path:
        """RefCOCO's, which is the same, where the set has none of its own."""
        own, sister = folder / "instances.json", folder.resolve().parent / "refcoco" / "instances.json"
        return own if own.is_file() or not sister.is_file() else sister

    def _kind(self, objects: int) -> str:
        return ("no-target", "single-target", "multi-target")[min(objects, 2)]


def _usual_images(root: Path, folder: Path) -> list[Path]:
    """REFER's own layout has them deeper; and the root may be the set's own folder."""
    places = [above / "images" for above in dict.fromkeys((root, folder, folder.parent))]
    return [place / where for place in places for where in ("train2014", "mscoco/images/train2014")]


def _of_split(path: Path, split: str) -> tuple[Reference, ...]:
    """In the file's order, but that those of a picture follow one another, by which they are talked about together."""
    by_image: dict[int, list[Reference]] = {}
    there: Counter[str] = Counter()
    for reference in read_references(path):
        there[reference.split] += 1
        if reference.split == split:
            by_image.setdefault(reference.image_id, []).append(reference)
    if not by_image:
        splits = ", ".join(f"{name} ({count:,})" for name, count in there.items()) or "no reference at all"
        raise DataError(f"{path} has no references of split '{split}', but {splits}")
    return tuple(reference for references in by_image.values() for reference in references)
