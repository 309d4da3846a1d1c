"""RefCOCO, RefCOCO+, RefCOCOg and gRefCOCO: one sample per sentence.

Layout, as published:
```
root/refcoco/refs(unc).p        root/refcoco/instances.json        refcoco+ likewise
root/refcocog/refs(umd).p       root/refcocog/instances.json
root/grefcoco/grefs(unc).json   root/grefcoco/instances.json, or refcoco's
root/images/train2014/*.jpg     COCO's
```
The reference file is read when the reader is constructed, instances.json on the first iteration; both are reduced to what the
split needs. Where an object can't be used, the sentences about it are dropped, because they would refer to something else
without it.
"""

from collections import Counter
from collections.abc import Iterator
from functools import cached_property, lru_cache
from pathlib import Path

from sam4mllm_tool.data.annotations import RegionError, require_pycocotools
from sam4mllm_tool.data.instances import Instances, read_instances
from sam4mllm_tool.data.reader import Reader, find_folder
from sam4mllm_tool.data.reference_files import Reference, read_references
from sam4mllm_tool.data.sample import Problems, Region, Sample
from sam4mllm_tool.errors import DataError
from sam4mllm_tool.types import Box

__all__ = ["GRefCoco", "RefCoco", "RefCocoPlus", "RefCocog"]


class RefCoco(Reader):
    """RefCOCO. The other datasets of the family differ in their names and their files' names.

    Args:
        root: The folder that holds refcoco/ and images/, or the dataset's own folder.
        split: The split's name, for example "testA".
        split_by: Whose division into splits is used: unc, umd or google. The default is the first that exists.
        images: The folder of the images, where it is not in the published layout's place.
        annotations: The instances.json, where it is not in the published layout's place.

    Raises:
        DataError: A file is missing or damaged, or has no references of the split.
        MissingExtraError: pycocotools is not installed.
    """

    name = "refcoco"
    _file_name = "refs({}).p"
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
        require_pycocotools()
        folder = root / self.name if (root / self.name).is_dir() else root
        self.path, self.split_by = self._find_references(folder, split_by)
        self._instances_path = Path(annotations) if annotations else self._default_instances(folder)
        if not self._instances_path.is_file():
            raise DataError(f"{self._instances_path} does not exist; set the file with the option 'annotations'")
        self._images = find_folder(Path(images)) if images else find_folder(*_default_image_folders(root, folder))
        self.references = _read_split(self.path, split)

    def _find_references(self, folder: Path, split_by: str | None) -> tuple[Path, str]:
        candidates = (split_by,) if split_by else self._split_bys
        for candidate in candidates:
            if (path := folder / self._file_name.format(candidate)).is_file():
                return path, candidate
        names = " or ".join(self._file_name.format(candidate) for candidate in candidates)
        content = ", ".join(sorted(path.name for path in folder.iterdir())[:20]) if folder.is_dir() else ""
        raise DataError(
            f"{folder} has no {names}, but {content or 'nothing'}; expected the root that holds {self.name}/{names}"
        )

    def _default_instances(self, folder: Path) -> Path:
        return folder / "instances.json"

    def index_files(self) -> tuple[Path, ...]:
        """Return the reference file and the annotation file."""
        return self.path, self._instances_path

    def units(self) -> int:
        """Return the number of references in the split, which is what the published counts count."""
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
                path = self._images / self._instances.find_image(reference.image_id).file_name
                if not is_file(path):
                    raise RegionError("the image does not exist", str(path))
                objects = self._resolve_objects(reference, problems)
            except RegionError as error:
                for _ in reference.sentences:  # so that samples and dropped ones add up to the sentences
                    problems.add("dropped", error.what, where, error.detail)
                continue
            for sentence_id, expression in reference.sentences:
                if expression:
                    yield self._sample(reference, sentence_id, expression, path, objects)
                else:
                    problems.add("dropped", "the expression is empty or not a text", f"{where}, sentence {sentence_id}")

    def _sample(
        self, reference: Reference, sentence_id: int, expression: str, path: Path, objects: list[tuple[Box, Region]]
    ) -> Sample:
        return Sample(
            id=f"{self.name}-{reference.id}-{sentence_id}",
            image_path=path,
            expression=expression,
            size=self._instances.find_image(reference.image_id).size,
            boxes=tuple(box for box, _ in objects),
            regions=tuple(region for _, region in objects),
            kind=self._kind(len(objects)),
            split=self.split,
            image_id=f"coco:{reference.image_id}",
            source=self.name,
        )

    def _resolve_objects(self, reference: Reference, problems: Problems) -> list[tuple[Box, Region]]:
        """Return the objects from left to right, because the file has no order."""
        objects = [self._instances.resolve_object(number, reference.image_id, problems) for number in reference.annotation_ids]
        return sorted(objects, key=lambda pair: pair[0])

    def _kind(self, objects: int) -> str:  # noqa: ARG002  # gRefCOCO's kinds depend on it
        return ""


class RefCocoPlus(RefCoco):
    """RefCOCO+: expressions without words of location."""

    name = "refcoco+"
    _split_bys = ("unc",)


class RefCocog(RefCoco):
    """RefCOCOg: longer expressions. Google's division shares images between train and val, umd's doesn't."""

    name = "refcocog"
    _split_bys = ("umd", "google")


class GRefCoco(RefCoco):
    """gRefCOCO: one object, several or none. The kinds are "single-target", "multi-target" and "no-target"."""

    name = "grefcoco"
    _file_name = "grefs({}).json"
    _split_bys = ("unc",)

    def _default_instances(self, folder: Path) -> Path:
        """Fall back to RefCOCO's file, which has the same content."""
        own, refcoco = folder / "instances.json", folder.resolve().parent / "refcoco" / "instances.json"
        return own if own.is_file() or not refcoco.is_file() else refcoco

    def _kind(self, objects: int) -> str:
        return ("no-target", "single-target", "multi-target")[min(objects, 2)]


def _default_image_folders(root: Path, folder: Path) -> list[Path]:
    """List the published layout's folder and that of REFER's own layout, also where root is the dataset's own folder."""
    parents = [parent / "images" for parent in dict.fromkeys((root, folder, folder.parent))]
    return [parent / name for parent in parents for name in ("train2014", "mscoco/images/train2014")]


def _read_split(path: Path, split: str) -> tuple[Reference, ...]:
    """Read the references of a split in the file's order, but group those of an image, which share its conversations."""
    by_image: dict[int, list[Reference]] = {}
    counts: Counter[str] = Counter()
    for reference in read_references(path):
        counts[reference.split] += 1
        if reference.split == split:
            by_image.setdefault(reference.image_id, []).append(reference)
    if not by_image:
        splits = ", ".join(f"{name} ({count:,})" for name, count in counts.items()) or "no reference at all"
        raise DataError(f"{path} has no references of split '{split}', but {splits}")
    return tuple(reference for references in by_image.values() for reference in references)
