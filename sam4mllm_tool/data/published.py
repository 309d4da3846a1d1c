"""How large the published data sets are, split by split: what a copy on disk is checked against.

Sources: RefCOCO and RefCOCO+ by `refs(unc).p`, RefCOCOg by `refs(umd).p`, counted in references (an object with its
sentences); gRefCOCO by the entries of `grefs(unc).json`; ReasonSeg, ADE20K (2021_17_01), PACO-LVIS and PartImageNet by their
annotated pictures. A reader's `units()` counts the same of what is there.
"""

from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["PUBLISHED_COUNTS", "Published", "published_count"]


@dataclass(frozen=True)
class Published:
    """A published count. unit: what is counted, in the plural."""

    unit: str
    count: int


def _counted(unit: str, **splits: int) -> dict[str, Published]:
    return {split: Published(unit, count) for split, count in splits.items()}


PUBLISHED_COUNTS: Mapping[str, Mapping[str, Published]] = {
    "refcoco": _counted("references", train=42404, val=3811, testA=1975, testB=1810),
    "refcoco+": _counted("references", train=42278, val=3805, testA=1975, testB=1798),
    "refcocog": _counted("references", train=42226, val=2573, test=5023),
    "grefcoco": _counted("references", train=78930, val=8163, testA=6266, testB=4618),
    "reasonseg": _counted("pictures", train=239, val=200, test=779),
    "ade20k": _counted("pictures", train=25574, val=2000),
    "paco": _counted("pictures", train=45790, val=2410, test=9443),
    "partimagenet": _counted("pictures", train=16540, val=2957, test=4598),
}
"""By data set and split; RefCOCO and RefCOCO+ as divided by unc, RefCOCOg by umd."""

_DIVIDED_BY = {"refcoco": "unc", "refcoco+": "unc", "refcocog": "umd", "grefcoco": "unc"}


def published_count(dataset: object) -> Published | None:
    """What the split of a reader should have; None where nothing is published of it, or of that division into splits."""
    name, split = getattr(dataset, "name", ""), getattr(dataset, "split", "")
    if getattr(dataset, "split_by", None) not in (None, _DIVIDED_BY.get(name)):
        return None
    return PUBLISHED_COUNTS.get(name, {}).get(split)
