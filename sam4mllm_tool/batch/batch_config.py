"""The settings of a job, which each of its workers gets."""

from dataclasses import dataclass, field, replace
from typing import Any

from sam4mllm_tool.batch.row_inputs import RowInput
from sam4mllm_tool.batch.storage import open_storage
from sam4mllm_tool.config import METHODS, Method
from sam4mllm_tool.data.batch_output import SHARD_FORMATS, ShardFormat
from sam4mllm_tool.evaluation.config import ModelSpec
from sam4mllm_tool.images.load import CALLER_POLICY, ImagePolicy
from sam4mllm_tool.pipeline.sam4mllm import IMAGES_AT_ONCE, choose_specs

__all__ = ["BatchConfig"]


@dataclass(frozen=True, kw_only=True)
class BatchConfig:
    """What is segmented, how, and where the results go. Can be pickled.

    Attributes:
        input: The rows.
        output: The folder of the results: a path, or a URL that fsspec knows.
        format: The shards' format.
        models: How each worker loads its models.
        method: How an expression is segmented.
        shard_rows: Rows per shard. A kill loses the work on the shards that are in work, and rows about one image share its
            encoding within a shard.
        images_at_once: Images that a worker has in work at a time; their masks are in memory together.
        allow_url: Open images at URLs that the input names: http and https at public addresses, and others by fsspec.

    Raises:
        ValueError: A setting is out of its range.
    """

    input: RowInput
    output: str
    format: ShardFormat = "parquet"
    models: ModelSpec = field(default_factory=ModelSpec)
    method: Method = "pqpp"
    shard_rows: int = 500
    images_at_once: int = IMAGES_AT_ONCE
    allow_url: bool = False

    def __post_init__(self) -> None:
        if self.format not in SHARD_FORMATS:
            raise ValueError(f"no such format: {self.format!r}; there are {', '.join(SHARD_FORMATS)}")
        if self.method not in METHODS:
            raise ValueError(f"no such method: {self.method!r}; there are {', '.join(METHODS)}")
        for name in ("shard_rows", "images_at_once"):
            if getattr(self, name) < 1:
                raise ValueError(f"expected {name} from 1 on, got {getattr(self, name)}")

    @property
    def policy(self) -> ImagePolicy:
        """What may be opened: any path, and URLs if they are allowed."""
        return replace(CALLER_POLICY, allow_urls=self.allow_url)

    def resolve(self) -> "BatchConfig":
        """Return the same job for a worker in another folder and environment: places are absolute, models have their specs.

        Raises:
            DataError: A place can't be opened.
            MissingExtraError: A library is not installed.
        """
        images = None if self.input.images is None else open_storage(self.input.images).absolute_url
        source = replace(self.input, url=open_storage(self.input.url).absolute_url, images=images)
        specs = choose_specs(self.models.mllm, self.models.segmenter)
        models = ModelSpec(*specs, dialect=self.models.dialect, options=self.models.options, config=self.models.config)
        return replace(self, input=source, output=open_storage(self.output).absolute_url, models=models)

    def describe(self) -> dict[str, Any]:
        """Return what the results depend on, as plain JSON.

        Raises:
            SpecError: A spec names no model.
        """
        return {
            "input": self.input.url,
            "expressions": list(self.input.expressions),
            "images": self.input.images,
            "format": self.format,
            "method": self.method,
            "shard_rows": self.shard_rows,
            "images_at_once": self.images_at_once,
            **self.models.describe(),
        }
