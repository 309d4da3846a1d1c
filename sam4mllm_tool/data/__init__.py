"""Data sets of referring expressions, read one sample at a time.

```python
from sam4mllm_tool.data import load_dataset

for sample in load_dataset("refcoco", "/data", split="val"):
    sample.expression, sample.boxes, sample.mask()
```
Each reader is a file of its own, opened when its data set is asked for; most need pycocotools, of the extra `train`.
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
"""By name: the reader's module, and its class, which is made from a root, a split and its options."""


def load_dataset(name: str, root: str | os.PathLike[str], split: str = "train", **options: Any) -> Dataset:
    """The samples of a data set's split, to be iterated as often as wanted.

    name: one of DATASETS. root: the folder that holds the data set as published; see the reader's module for its layout.
    options: the reader's own, `images` for pictures in another place, for instance.
    Raises DataError for an unknown name, split or option, a wrong root or a corrupt index; MissingExtraError.
    """
    if name not in DATASETS:
        raise DataError(f"no data set is called {name!r}; there are {', '.join(DATASETS)}")
    module, reader = DATASETS[name]
    make = getattr(import_module(f"sam4mllm_tool.data.{module}"), reader)
    known = [key for key in inspect.signature(make).parameters if key not in ("root", "split")]
    if unknown := [option for option in options if option not in known]:
        raise DataError(f"{name} has no option {', '.join(unknown)}; it has {', '.join(known) or 'none'}")
    dataset: Dataset = make(Path(root), split, **options)
    return dataset
