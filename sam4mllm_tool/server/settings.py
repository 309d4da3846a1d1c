"""The settings of a server: by flag, else by the environment's SAM4MLLM_*, else by a TOML file, else the defaults."""

import os
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, field_validator
from pydantic_settings import (
    BaseSettings,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from sam4mllm_tool.config import Method
from sam4mllm_tool.errors import Sam4MllmError, quote_text
from sam4mllm_tool.images.load import ImagePolicy
from sam4mllm_tool.server.scheduler_limits import SchedulerLimits

__all__ = ["RayServeSettings", "ServerSettings", "SettingsError", "load_settings"]


class SettingsError(Sam4MllmError, ValueError):
    """A setting of the server that can't be used."""


class ServerSettings(BaseSettings):
    """How a server is run. Lists in the environment are separated by commas."""

    model_config = SettingsConfigDict(env_prefix="SAM4MLLM_", extra="forbid", hide_input_in_errors=True)

    host: str = Field(default="127.0.0.1", description="Address to listen at.")
    port: int = Field(default=8765, ge=0, le=65535, description="Port to listen at; 0 takes a free one.")
    mllm: str | None = Field(default=None, description="Spec of the MLLM.")
    segmenter: str | None = Field(default=None, description="Spec of the segmenter.")
    dialect: str | None = Field(default=None, description="How the MLLM is asked.")
    method: Method = Field(default="adaptive", description="Default method for requests that name none.")
    chat_model: str | None = Field(default=None, description="Chat model of /v1/chat for what is no plain request.")
    auth_token: Annotated[tuple[SecretStr, ...], NoDecode] = Field(
        default=(), description="Tokens that clients may send; without any, everybody who reaches the port may use the server."
    )
    auth_token_file: Path | None = Field(default=None, description="File with one such token a line.")
    allow_origin: Annotated[tuple[str, ...], NoDecode] = Field(
        default=(), description="Origins of web pages elsewhere that may use the server; by default none."
    )
    image_root: Annotated[tuple[Path, ...], NoDecode] = Field(
        default=(), description="Folders whose images clients may name by path; by default none."
    )
    allow_url_host: Annotated[tuple[str, ...], NoDecode] = Field(
        default=(), description="Hosts that images may be fetched from; by default none."
    )
    max_body_bytes: int = Field(default=64 * 2**20, ge=1024, description="Largest body of a request.")
    body_timeout_s: float = Field(
        default=30.0, gt=0, description="Seconds within which a request's head, and then its body, have to arrive."
    )
    max_pixels: int = Field(default=64_000_000, ge=1, description="Largest width x height of an image.")
    max_batch: int = Field(default=16, ge=1, description="Requests that are worked on at a time.")
    max_queue: int = Field(default=64, ge=0, description="Requests that may wait besides.")
    gather_ms: float = Field(default=5.0, ge=0, description="Milliseconds that an idle server waits for more requests.")
    request_timeout_s: float = Field(default=120.0, gt=0, description="Seconds after which a request is dropped.")
    shutdown_timeout_s: float = Field(default=60.0, gt=0, description="Seconds in which a stopping server finishes its work.")
    store_bytes: int = Field(default=512 * 2**20, ge=1, description="Memory for images, and for results, in bytes.")
    log_expressions: bool = Field(default=False, description="Whether the log holds what was asked for.")

    @field_validator("auth_token", "allow_origin", "image_root", "allow_url_host", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        """Take text as a list that is separated by commas."""
        return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value

    @field_validator("image_root")
    @classmethod
    def _check_folders(cls, folders: tuple[Path, ...]) -> tuple[Path, ...]:
        for folder in folders:
            if not folder.is_dir():
                raise ValueError(f"{quote_text(str(folder))} is not a folder: give a folder of images")
        return tuple(folder.resolve() for folder in folders)

    @property
    def tokens(self) -> tuple[str, ...]:
        """All tokens.

        Raises:
            SettingsError: Their file can't be read, or has none; or a token is not of printable ASCII.
        """
        tokens = [token.get_secret_value() for token in self.auth_token]
        if self.auth_token_file is not None:
            what = f"the file of tokens {quote_text(str(self.auth_token_file))}"
            try:
                lines = self.auth_token_file.read_text(encoding="utf-8").split()
            except (OSError, UnicodeDecodeError) as error:
                raise SettingsError(f"{what} can't be read: {getattr(error, 'strerror', None) or 'not text'}") from error
            if not lines:
                raise SettingsError(f"{what} is empty: write one token a line")
            tokens += lines
        if any(not (token and token.isascii() and token.isprintable() and " " not in token) for token in tokens):
            raise SettingsError("a token may only have letters, digits and signs of ASCII, and no blanks")
        return tuple(tokens)

    @property
    def policy(self) -> ImagePolicy:
        """Which images may be opened."""
        return ImagePolicy(
            max_bytes=self.max_body_bytes,
            max_pixels=self.max_pixels,
            allow_paths=self.image_root or False,
            allow_urls=bool(self.allow_url_host),
            url_hosts=self.allow_url_host or None,
        )

    @property
    def limits(self) -> SchedulerLimits:
        """How much waits, and for how long."""
        return SchedulerLimits(
            images_at_once=self.max_batch,
            queue_size=max(1, self.max_queue),
            gather_s=self.gather_ms / 1000,
            timeout_s=self.request_timeout_s,
        )


class RayServeSettings(BaseModel):
    """How many replicas of each model there are, and what each may use."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    min_replicas: int = Field(default=1, ge=0, description="Least replicas of each model.")
    max_replicas: int = Field(default=1, ge=1, description="Most replicas of each model.")
    gpus_per_replica: float = Field(default=0.0, ge=0, description="GPUs of each replica; a fraction shares one.")
    cpus_per_replica: float = Field(default=1.0, ge=0, description="CPU cores of each replica, and threads.")
    ongoing_requests: int = Field(default=16, ge=1, description="Calls that a replica takes at a time.")


def load_settings(file: str | os.PathLike[str] | None = None, **flags: Any) -> ServerSettings:
    """Read the settings.

    Args:
        file: A TOML file with settings by their names.
        flags: Settings that win over all else.

    Raises:
        SettingsError: A setting is unknown or out of its range, or the file can't be read.
    """

    class FileSettings(ServerSettings):
        @classmethod
        def settings_customise_sources(
            cls,
            settings_cls: type[BaseSettings],
            init_settings: PydanticBaseSettingsSource,
            env_settings: PydanticBaseSettingsSource,
            dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
            file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        ) -> tuple[PydanticBaseSettingsSource, ...]:
            sources = (init_settings, env_settings)
            return sources if file is None else (*sources, TomlConfigSettingsSource(settings_cls, Path(file)))

    try:
        if file is not None:
            Path(file).read_bytes()  # a missing file would be skipped
        return FileSettings(**flags)
    except ValidationError as error:
        fault = error.errors(include_input=False, include_url=False)[0]
        raise SettingsError(f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}") from error
    except OSError as error:
        raise SettingsError(f"the settings {quote_text(str(file))} can't be read: {error.strerror or error}") from error
    except ValueError as error:
        raise SettingsError(f"the settings {quote_text(str(file))} are not TOML: {error}") from error
