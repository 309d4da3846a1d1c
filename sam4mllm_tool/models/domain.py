"""Recognise images unlike those that a model was trained on, so that its answers about them come with a warning.

A folder of weights may have a domain.json: statistics of training images' features in one layer of the vision tower, the
distance from them beyond which an image counts as unlike them, and the warning to give. The distance is Mahalanobis': how many
standard deviations the features are from the training images' mean, along the directions in which those vary most and across
the rest. A middle layer tells most: the last one reports only what it was taught to see, and sees that in everything.
Any model can have such a file; `python -m recipes.embedded` writes the one of the embedded pair. NumPy only.

Source: Lee et al., A Simple Unified Framework for Detecting Out-of-Distribution Samples and Adversarial Attacks (NeurIPS 2018);
the covariance is that of Tipping and Bishop, Probabilistic Principal Component Analysis (1999).
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from sam4mllm_tool.models.metadata import read_metadata
from sam4mllm_tool.text import parse_json

__all__ = ["DOMAIN_FILE", "ImageDomain", "find_domain", "fit_domain", "pool_features"]

FloatArray: TypeAlias = npt.NDArray[np.floating[Any]]

DOMAIN_FILE = "domain.json"
_DIGITS = 4
"""Significant digits of the numbers in the file."""
_MIN_DEVIATION = 1e-6
"""Of a feature among an image's patches, whose logarithm is taken."""
_MIN_RESIDUAL = 1e-6
"""Least variance across the rest, as a share of the mean variance: rounding alone moves features by as much."""


@dataclass(frozen=True, eq=False)
class ImageDomain:
    """The images that a model was trained on, as a normal distribution of their pooled features.

    Attributes:
        warning: What to say of an image outside: what the model knows, and what to use instead.
        layer: Index among the vision tower's hidden states, of which 0 is the embedding of the patches.
        threshold: The largest `distance` of an image inside.
        mean: (d,) of the training images' features.
        components: (k, d) orthonormal directions in which the training images vary most.
        variances: (k,) of the training images along each component.
        residual_variance: Mean variance along the d - k other directions.
    """

    warning: str
    layer: int
    threshold: float
    mean: FloatArray
    components: FloatArray
    variances: FloatArray
    residual_variance: float

    def distance(self, features: FloatArray) -> float:
        """Return how far an image's features (d,) are from the training images': about 1 for those.

        It is the root of the mean square of the deviations, each in standard deviations of the training images.
        """
        centred = np.asarray(features, np.float64) - self.mean
        along = self.components @ centred
        across = max(0.0, float(centred @ centred - along @ along))
        squares = float((along**2 / self.variances).sum()) + across / self.residual_variance
        return float(np.sqrt(squares / centred.size))

    def contains(self, features: FloatArray) -> bool:
        """Return whether an image with these features (d,) is like the training images. Features that aren't finite are not."""
        return self.distance(features) <= self.threshold

    def to_json(self) -> str:
        """Return what `from_json` reads."""
        numbers = {
            "threshold": self.threshold,
            "residual_variance": self.residual_variance,
            "variances": self.variances.tolist(),
            "mean": self.mean.tolist(),
            "components": self.components.tolist(),
        }
        return (
            json.dumps(
                {"warning": self.warning, "layer": self.layer, **{name: _round(value) for name, value in numbers.items()}}
            )
            + "\n"
        )

    @classmethod
    def from_json(cls, text: str) -> "ImageDomain":
        """Read what `to_json` wrote. Raises ValueError for anything else."""
        try:
            fields = parse_json(text)
            fields |= {name: np.array(fields[name], np.float64) for name in ("mean", "components", "variances")}
            fields |= {name: float(fields[name]) for name in ("threshold", "residual_variance")}
            domain = cls(**fields)
        except (ValueError, TypeError, KeyError, AttributeError, OverflowError) as error:
            raise ValueError(f"not an image domain: {error}") from error
        domain._validate()
        return domain

    def _validate(self) -> None:
        if not isinstance(self.warning, str) or not self.warning.strip():
            raise ValueError("not an image domain: 'warning' must be a sentence")
        if not isinstance(self.layer, int) or self.layer < 0:
            raise ValueError(f"not an image domain: 'layer' must be a number of at least 0, got {self.layer!r}")
        shapes = (self.mean.shape, self.components.shape, self.variances.shape)
        width, count = self.mean.size, self.variances.size
        if shapes != ((width,), (count, width), (count,)):
            raise ValueError(f"not an image domain: expected a mean (d,), components (k, d) and variances (k,), got {shapes}")
        numbers = np.concatenate([self.mean, self.components.ravel(), self.variances, [self.threshold, self.residual_variance]])
        if not np.isfinite(numbers).all():
            raise ValueError("not an image domain: a number in it is not finite")
        if min(*self.variances.tolist(), self.threshold, self.residual_variance) <= 0:
            raise ValueError("not an image domain: its variances and threshold must be above 0")


def pool_features(patches: FloatArray) -> npt.NDArray[np.float64]:
    """Pool the features of an image's patches (n, w) into (2 w,): their means, then the logarithms of their deviations.

    The logarithm makes an image in which the features hardly vary, as a blurred one, as far from others as one in which they
    vary too much.
    """
    patches = np.asarray(patches, np.float64)
    return np.concatenate([patches.mean(0), np.log(patches.std(0) + _MIN_DEVIATION)])


def fit_domain(
    training: Sequence[FloatArray],
    tuning: Sequence[FloatArray],
    warning: str,
    *,
    layer: int,
    components: int = 8,
    outside: float = 0.003,
) -> ImageDomain:
    """Fit a domain to training images, and its threshold to other images of the same kind.

    Args:
        training: Pooled features (d,) of images that the model was trained on: several times as many as d.
        tuning: Pooled features of images like those, which it was neither trained nor is measured on.
        warning: The domain's warning.
        layer: Where the features come from.
        components: Number of directions whose variances are kept one by one. With more, directions of small variances count
            as much as the few that matter.
        outside: Share of the tuning images that may be taken for unlike.

    Raises:
        ValueError: There are too few images, or `components` is not below their number and the features'.
    """
    features = np.stack(training).astype(np.float64)
    count, width = features.shape
    if not 0 < components < min(count, width) or not tuning:
        raise ValueError(
            f"expected more than {components} training images and features, and tuning images; got {count} images of "
            f"{width} features and {len(tuning)} tuning images"
        )
    mean = features.mean(0)
    variances, directions = np.linalg.eigh(np.cov(features, rowvar=False))  # ascending
    least = _MIN_RESIDUAL * float(variances.mean())
    domain = ImageDomain(
        warning,
        layer,
        np.inf,
        mean,
        directions[:, -components:].T,
        np.maximum(variances[-components:], least),
        max(float(variances[:-components].mean()), least),
    )
    return replace(domain, threshold=float(np.quantile([domain.distance(image) for image in tuning], 1 - outside)))


def find_domain(mllm: str) -> ImageDomain | None:
    """Return the domain.json beside the spec's adapter, or beside the model where it has none; None without such a file.

    What a base or another adapter was trained on says nothing of an adapter's own images, so with an adapter only its file
    counts.

    Args:
        mllm: Model spec; a hub id is looked up on the hub.

    Raises:
        SpecError: The file can't be read, or the hub can't be reached.
    """
    return read_metadata(mllm, DOMAIN_FILE, ImageDomain.from_json, adapter_only=True)


def _round(value: Any) -> Any:
    """Round the numbers of a nested list to the digits that the file keeps."""
    return [_round(each) for each in value] if isinstance(value, list) else float(f"{value:.{_DIGITS}g}")
