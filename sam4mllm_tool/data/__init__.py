"""Datasets of referring expressions, read one sample at a time.

```python
from sam4mllm_tool.data import load_dataset

for sample in load_dataset("refcoco", "/data", split="val"):
    sample.expression, sample.boxes, sample.mask()
```
Each reader is a module of its own, imported when its dataset is loaded; most need pycocotools and ijson from the extra `train`.
"""

import inspect
import os
from importlib import import_module
from pathlib import Path
from typing import Any

from sam4mllm_tool.data.published import PUBLISHED_COUNTS
from sam4mllm_tool.data.sample import Dataset, Problems, Region, Sample
from sam4mllm_tool.errors import DataError

__all__ = ["DATASETS", "PUBLISHED_COUNTS", "Dataset", "Problems", "Region", "Sample", "load_dataset"]

DATASETS: dict[str, tuple[str, str]] = {
    "refcoco": ("refcoco", "RefCoco"),
    "refcoco+": ("refcoco", "RefCocoPlus"),
    "refcocog": ("refcoco", "RefCocog"),
    "grefcoco": ("refcoco", "GRefCoco"),
    "reasonseg": ("reasonseg", "ReasonSeg"),
    "vqa": ("vqa", "Vqa"),
    "ade20k": ("ade20k", "ADE20K"),
    "paco": ("paco", "Paco"),
    "partimagenet": ("partimagenet", "PartImageNet"),
    "jsonl": ("jsonl", "JsonLines"),
}
"""Dataset name -> module and class of its reader, which is constructed from a root, a split and the reader's options."""


def load_dataset(name: str, root: str | os.PathLike[str], split: str = "train", **options: Any) -> Dataset:
    """Open one split of a dataset; the result can be iterated any number of times.

    Args:
        name: One of `DATASETS`.
        root: The folder that holds the dataset as published; the reader's module documents the layout.
        split: The split's name, for example "train", "val" or "testA".
        options: The reader's own options, for example `images` for the folder of the images.

    Returns:
        The samples of the split.

    Raises:
        DataError: The name, split or option is unknown, the root is wrong, or an index file is damaged.
        MissingExtraError: A library that the reader needs is not installed.
    """
    if name not in DATASETS:
        raise DataError(f"unknown dataset {name!r}; expected one of {', '.join(DATASETS)}")
    module, class_name = DATASETS[name]
    reader = getattr(import_module(f"sam4mllm_tool.data.{module}"), class_name)
    known = [key for key in inspect.signature(reader).parameters if key not in ("root", "split")]
    if unknown := [option for option in options if option not in known]:
        raise DataError(f"{name} has no option {', '.join(unknown)}; its options are {', '.join(known) or 'none'}")
    dataset: Dataset = reader(Path(root), split, **options)
    return dataset
