"""The method `adaptive`: ask where an answer decides something, and whether the box is the right one at all.

The paper asks where a fixed grid falls, about a box that it takes for granted. Here
1. the MLLM names boxes, and the segmenter proposes masks for each from the box alone;
2. in one round the MLLM is asked about few points, where these masks say that an answer can be relied on
   (point_selection.py), and whether the object in each box is what was meant (protocol/verified.py), which, calibrated, is the
   object's confidence; a rough box is replaced by its mask's own box there and from then on;
3. box and answers prompt the segmenter again; the medoid of comparable candidates is taken unless the mask from the box alone
   fits the answers clearly better, and a mask that outgrows its box is tried as a box itself;
4. where a box is in doubt, by its confidence or because no point in it is on the object, and where several were named, the
   MLLM is asked for other boxes, which go through the same steps; the more probable objects stay;
5. a segmenter that finds instances by words (`types.Segmenter`) proposes those that the expression may mean besides; the MLLM
   says of each whether it is meant, and those that it is sure of go through the same steps;
6. all masks are refined in crops (crop_refinement.py).
Step 4 is skipped where nothing is in doubt, step 5 where a single object is meant and not in doubt. No more points are asked
about than `config.max_points`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from sam4mllm_tool.geometry.boxes import SAME_OBJECT_IOU, format_box, mask_iou, select_new_boxes
from sam4mllm_tool.pipeline.crop_refinement import refine_crops
from sam4mllm_tool.pipeline.point_selection import pick_better, select_medoid, select_points, tighten_box
from sam4mllm_tool.pipeline.requests import Flow
from sam4mllm_tool.pipeline.run_context import RunContext
from sam4mllm_tool.protocol import PQPP, BoxOnly, Dialogue, Exchange, PointsByBox, Verified
from sam4mllm_tool.protocol.dialect import MAX_OBJECTS
from sam4mllm_tool.protocol.references import is_plural
from sam4mllm_tool.types import Box, ObjectPrompt, Point, Reply, SegmentedObject

__all__ = ["SAME_MASK_IOU", "MethodResult", "min_confidence", "run_adaptive", "segment_boxes"]

_DOUBTED = 0.7
"""Confidence below which a box is in doubt."""
_ADDED = 0.8
"""Confidence that another box needs to be added to several."""
_DROPPED = 0.4
"""Confidence below which one of several objects is dropped."""
SAME_MASK_IOU = 0.8
"""IoU of two masks that are one object's."""


@dataclass(frozen=True, eq=False)
class MethodResult:
    """What a method comes to.

    Args:
        expression: As it was asked about.
        objects: The objects.
        confidence: Probability that all of it is right: that of the least probable object, or that there is none; None where
            unknown.
    """

    expression: str
    objects: Sequence[SegmentedObject]
    confidence: float | None


@dataclass(frozen=True, eq=False)
class _Candidate:
    """An object and what the MLLM said of its box.

    Args:
        segmented: The object.
        meant: Calibrated probability that it is meant; None where unknown.
        is_denied: Whether the MLLM said that it is not meant, without a probability.
    """

    segmented: SegmentedObject
    meant: float | None
    is_denied: bool

    @property
    def probability(self) -> float:
        """As `meant`; an object that nobody was asked about is believed."""
        return 0.0 if self.is_denied else 1.0 if self.meant is None else self.meant

    @property
    def with_confidence(self) -> SegmentedObject:
        """The object with `meant` as its confidence."""
        return replace(self.segmented, confidence=self.meant)

    @property
    def is_doubted(self) -> bool:
        points = self.segmented.prompt.points
        return self.probability < _DOUBTED or (bool(points) and not any(point.label for point in points))

    @property
    def place(self) -> str:
        return format_box(self.segmented.prompt.box)


def run_adaptive(run: RunContext, expression: str) -> Flow[MethodResult]:
    """Segment what the expression means."""
    named = yield from run.run_dialogue(BoxOnly.start(expression, run.size, dialect=run.dialect))
    boxes = [prompt.box for prompt in named.prompts]
    first = named.history[0]
    candidates = (yield from _examine_boxes(run, named.expression, boxes, first)) if boxes else []
    if len(candidates) > 1 or any(candidate.is_doubted for candidate in candidates):
        candidates = yield from _reconsider(run, named.expression, candidates)
    candidates = yield from _add_proposals(run, named.expression, candidates)
    if not candidates:
        return MethodResult(named.expression, (), run.none_confidence(first.reply))
    objects = yield from _finish(run, candidates)
    return MethodResult(named.expression, objects, min_confidence(objects))


def min_confidence(objects: Sequence[SegmentedObject]) -> float | None:
    """Return the lowest confidence; None where an object has none, or there is no object."""
    known = [segmented.confidence for segmented in objects if segmented.confidence is not None]
    return min(known) if known and len(known) == len(objects) else None


def segment_boxes(run: RunContext, expression: str, boxes: Sequence[Box]) -> Flow[list[SegmentedObject]]:
    """Segment the objects in boxes that are known, as if the MLLM had just named them: steps 1 to 3 and 6."""
    if not boxes:
        return []
    return (yield from _finish(run, (yield from _examine_known_boxes(run, expression, boxes))))


def _examine_known_boxes(run: RunContext, expression: str, boxes: Sequence[Box]) -> Flow[list[_Candidate]]:
    """Steps 1 to 3, as if the MLLM had just named the boxes."""
    start = BoxOnly.start(expression, run.size, dialect=run.dialect)
    first = Exchange(start.pending[0], Reply(run.dialect.format_boxes(boxes, run.size)))
    return (yield from _examine_boxes(run, start.expression, boxes, first))


def _examine_boxes(run: RunContext, expression: str, boxes: Sequence[Box], first: Exchange) -> Flow[list[_Candidate]]:
    """Steps 1 to 3: an object for each box, with what the MLLM says of it. first: the exchange that named the boxes."""
    from_boxes = yield from run.segment_prompts([ObjectPrompt(box) for box in boxes])
    verified = yield from _ask_about(run, expression, boxes, first, from_boxes)
    from_points = yield from run.segment_prompts(verified.prompts)
    objects = [pick_better(select_medoid(pointed), bare) for pointed, bare in zip(from_points, from_boxes, strict=True)]
    objects = yield from _retry_tight_boxes(run, objects)
    opinions = (verified.verifications if isinstance(verified, Verified) else None) or (None,) * len(objects)
    return [_weigh(run, segmented, opinion) for segmented, opinion in zip(objects, opinions, strict=True)]


def _ask_about(
    run: RunContext, expression: str, boxes: Sequence[Box], first: Exchange, from_boxes: Sequence[SegmentedObject]
) -> Flow[Verified | Dialogue]:
    """Step 2: ask about points and boxes in one round."""
    start = PQPP.start(expression, run.size, dialect=run.dialect, thresholds=run.config.thresholds)
    places = PointsByBox(_plan_points(run, boxes, from_boxes))
    points = replace(start, boxes=tuple(boxes), history=(first,), sampler=places)
    better = tuple(_better_box(run, segmented) for segmented in from_boxes)
    return (yield from run.run_dialogue(Verified(points, replacement_boxes=better)))


def _retry_tight_boxes(run: RunContext, objects: Sequence[SegmentedObject]) -> Flow[list[SegmentedObject]]:
    """Try the masks' own boxes where the prompted ones are rough; only answers tell which is better."""
    answered = ((index, segmented) for index, segmented in enumerate(objects) if segmented.prompt.points)
    tightened = {index: prompt for index, segmented in answered if (prompt := tighten_box(segmented)) is not None}
    retried = yield from run.segment_prompts(list(tightened.values()))
    best = list(objects)
    for index, segmented in zip(tightened, retried, strict=True):
        best[index] = pick_better(best[index], segmented)
    return best


def _reconsider(run: RunContext, expression: str, candidates: list[_Candidate]) -> Flow[list[_Candidate]]:
    """Step 4: ask for other boxes, and keep the more probable objects."""
    boxes = [candidate.segmented.prompt.box for candidate in candidates]
    other_boxes = yield from run.find_other_boxes(expression, boxes)
    new_boxes = select_new_boxes(other_boxes or (), boxes, SAME_OBJECT_IOU)[: MAX_OBJECTS - len(boxes)]
    if not new_boxes:
        return _choose(run, candidates, [])
    others = yield from _examine_boxes(run, expression, new_boxes, run.transcript.exchanges[-1])
    return _choose(run, candidates, others)


def _add_proposals(run: RunContext, expression: str, candidates: list[_Candidate]) -> Flow[list[_Candidate]]:
    """Step 5: add the objects that the segmenter proposes and the MLLM believes; of a doubted single one, the most probable."""
    several = is_plural(expression)
    if not run.traits.proposes or (len(candidates) == 1 and not several and not candidates[0].is_doubted):
        return candidates
    proposals = yield from run.propose_objects(expression)
    known = [candidate.segmented.prompt.box for candidate in candidates]
    new_boxes = select_new_boxes((proposal.prompt.box for proposal in proposals), known)[: MAX_OBJECTS - len(known)]
    probabilities = yield from run.verify_boxes(expression, new_boxes)
    believed = [box for box, meant in zip(new_boxes, probabilities, strict=True) if _is_believed(run, meant)]
    if not believed:
        return candidates
    others = [each for each in (yield from _examine_known_boxes(run, expression, believed)) if _is_added(each)]
    if not several and len(candidates) < 2:
        others = sorted((*candidates, *others), key=lambda candidate: -candidate.probability)[:1]
        candidates = [candidate for candidate in candidates if candidate in others]
    added = [other for other in others if other not in candidates]
    for other in added:
        run.note(f"{'added' if several else 'took'} the object at {other.place}, which {run.traits.segmenter} proposed")
    return [*candidates, *added]


def _is_believed(run: RunContext, probability: float | None) -> bool:
    return probability is not None and run.calibration.objects(probability) > _ADDED


def _is_added(candidate: _Candidate) -> bool:
    return candidate.meant is not None and candidate.meant > _ADDED


def _choose(run: RunContext, candidates: list[_Candidate], others: list[_Candidate]) -> list[_Candidate]:
    """Of a single object and the others the most probable one; of several those not denied, and the others believed."""
    if len(candidates) == 1:
        best = max((*candidates, *others), key=lambda candidate: candidate.probability)
        if best is not candidates[0]:
            run.note(f"took another object than the one at {candidates[0].place}, which was doubted")
        return [best]
    kept = [candidate for candidate in candidates if candidate.probability >= _DROPPED] or candidates
    for candidate in candidates:
        if candidate not in kept:
            run.note(f"left out the object at {candidate.place}, which is not what was meant")
    added = [other for other in others if _is_added(other)]
    for other in added:
        run.note(f"added the object at {other.place}, which had been forgotten")
    return [*kept, *added]


def _finish(run: RunContext, candidates: Sequence[_Candidate]) -> Flow[list[SegmentedObject]]:
    """Step 6: every object once, with its refined mask if that is wanted, and its confidence."""
    candidates = _drop_duplicates(run, candidates)
    if run.config.refine_crops:
        refined = yield from refine_crops(run, [candidate.segmented for candidate in candidates])
        candidates = [replace(candidate, segmented=segmented) for candidate, segmented in zip(candidates, refined, strict=True)]
    return [candidate.with_confidence for candidate in candidates]


def _drop_duplicates(run: RunContext, candidates: Sequence[_Candidate]) -> list[_Candidate]:
    """Drop candidates whose mask is nearly that of one that is more probable, or as probable and named before."""
    kept: list[_Candidate] = []
    for candidate in sorted(candidates, key=lambda candidate: -candidate.probability):
        mask = candidate.segmented.mask
        others = (other.segmented.mask for other in kept)
        if any(other.any() and mask_iou(mask, other) >= SAME_MASK_IOU for other in others):
            run.note(f"left out the object at {candidate.place}, which was named twice")
        else:
            kept.append(candidate)
    return [candidate for candidate in candidates if candidate in kept]


def _better_box(run: RunContext, segmented: SegmentedObject) -> Box:
    """The prompted box, or, where that is a rough one, the mask's own box as the dialect can write it."""
    box, tightened = segmented.prompt.box, tighten_box(segmented)
    if tightened is None:
        return box
    own_box = run.dialect.snap_box(tightened.box, run.size)
    return own_box if own_box.iou(tightened.box) > box.iou(tightened.box) else box


def _plan_points(
    run: RunContext, boxes: Sequence[Box], from_boxes: Sequence[SegmentedObject]
) -> tuple[tuple[Box, tuple[Point, ...]], ...]:
    """Where to ask about each object, the first ones first, while `config.max_points` allows."""
    plan, transcript, limit = [], run.transcript, run.config.max_points
    for box, segmented in zip(boxes, from_boxes, strict=True):
        points = select_points(segmented)[: limit - transcript.planned_points]
        transcript.planned_points += len(points)
        plan.append((box, points))
    if not plan[-1][1]:
        run.note(f"asked about no more than {limit} points; objects beyond have their box alone")
    return tuple(plan)


def _weigh(run: RunContext, segmented: SegmentedObject, opinion: tuple[int, float | None] | None) -> _Candidate:
    """Add the MLLM's opinion on an object's box, as label and confidence."""
    if opinion is None:
        return _Candidate(segmented, None, False)
    label, confidence = opinion
    if confidence is None:
        return _Candidate(segmented, None, label == 0)
    return _Candidate(segmented, run.calibration.objects(confidence if label else 1 - confidence), False)
