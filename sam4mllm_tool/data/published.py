"""The sizes of the published datasets, split by split, against which a copy on disk is checked.

RefCOCO and RefCOCO+ by `refs(unc).p` and RefCOCOg by `refs(umd).p` are counted in references (an object with its sentences),
gRefCOCO in the entries of `grefs(unc).json`, and ReasonSeg, ADE20K (2021_17_01), PACO-LVIS and PartImageNet in annotated
images. A reader's `units()` counts the same on disk.
"""

from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["PUBLISHED_COUNTS", "PublishedCount", "published_count"]


@dataclass(frozen=True)
class PublishedCount:
    """A published count and what is counted, in the plural."""

    unit: str
    count: int


def _counts(unit: str, **splits: int) -> dict[str, PublishedCount]:
    return {split: PublishedCount(unit, count) for split, count in splits.items()}


PUBLISHED_COUNTS: Mapping[str, Mapping[str, PublishedCount]] = {
    "refcoco": _counts("references", train=42404, val=3811, testA=1975, testB=1810),
    "refcoco+": _counts("references", train=42278, val=3805, testA=1975, testB=1798),
    "refcocog": _counts("references", train=42226, val=2573, test=5023),
    "grefcoco": _counts("references", train=78930, val=8163, testA=6266, testB=4618),
    "reasonseg": _counts("images", train=239, val=200, test=779),
    "ade20k": _counts("images", train=25574, val=2000),
    "paco": _counts("images", train=45790, val=2410, test=9443),
    "partimagenet": _counts("images", train=16540, val=2957, test=4598),
}
"""Dataset name -> split -> count; the RefCOCO family as divided by `_SPLIT_BY`."""

_SPLIT_BY = {"refcoco": "unc", "refcoco+": "unc", "refcocog": "umd", "grefcoco": "unc"}


def published_count(dataset: object) -> PublishedCount | None:
    """Return the published count of a reader's split; None where there is none for the split or its division."""
    name, split = getattr(dataset, "name", ""), getattr(dataset, "split", "")
    if getattr(dataset, "split_by", None) not in (None, _SPLIT_BY.get(name)):
        return None
    return PUBLISHED_COUNTS.get(name, {}).get(split)
