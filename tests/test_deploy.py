"""The files of deploy/ name what there is: the source's files, the extras, the settings of the server."""

import re
import tomllib
from pathlib import Path

import yaml

from sam4mllm_tool.server.settings import RayServeSettings, ServerSettings

ROOT = Path(__file__).parent.parent
DEPLOY = ROOT / "deploy"
OTHER_VARIABLES = {"CACHE"}
"""Of the environment, besides the server's settings."""


def test_the_dockerfile_copies_what_there_is_and_what_is_not_ignored() -> None:
    kept = {line[1:] for line in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines() if line.startswith("!")}
    dockerfile = (DEPLOY / "Dockerfile").read_text(encoding="utf-8")
    sources = [name for line in re.findall(r"^COPY (?!--)(.*) \S+$", dockerfile, re.MULTILINE) for name in line.split()]
    assert sources
    assert set(sources) == kept
    assert all((ROOT / name).exists() for name in sources)


def test_the_extras_that_are_installed_exist() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    for name in ("Dockerfile", "sam4mllm.service"):
        text = (DEPLOY / name).read_text(encoding="utf-8")
        (group,) = re.findall(r'(?:^ARG EXTRAS=|"sam4mllm-tool\[)([\w,]+)', text, re.MULTILINE)
        assert set(group.split(",")) <= set(extras)
        assert "sam" in group.split(","), "which the models need that the documentation names"


def test_the_ray_service_names_an_application_that_exists_and_its_settings() -> None:
    service = yaml.safe_load((DEPLOY / "kuberay.yml").read_text(encoding="utf-8"))
    (application,) = yaml.safe_load(service["spec"]["serveConfigV2"])["applications"]
    module, _, function = application["import_path"].partition(":")
    assert f"def {function}(" in (ROOT / f"{module.replace('.', '/')}.py").read_text(encoding="utf-8")
    assert set(application["args"]) <= {*ServerSettings.model_fields, *RayServeSettings.model_fields}
    pins = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    assert f"ray=={service['spec']['rayClusterConfig']['rayVersion']}" in pins


def test_a_stop_waits_longer_than_the_server_does() -> None:
    """It waits for connections, then for the models."""
    needed = 2 * ServerSettings().shutdown_timeout_s
    compose = yaml.safe_load((DEPLOY / "compose.yml").read_text(encoding="utf-8"))
    assert int(compose["services"]["server"]["stop_grace_period"].removesuffix("s")) > needed
    unit = (DEPLOY / "sam4mllm.service").read_text(encoding="utf-8")
    assert int(re.findall(r"^TimeoutStopSec=(\d+)$", unit, re.MULTILINE)[0]) > needed


def test_every_setting_that_is_named_is_one() -> None:
    for path in (*DEPLOY.iterdir(), ROOT / "docs" / "deployment.md"):
        for name in re.findall(r"SAM4MLLM_([A-Z_]+[A-Z])", path.read_text(encoding="utf-8")):
            assert name in OTHER_VARIABLES or name.lower() in ServerSettings.model_fields, f"{path.name}: {name}"


def test_the_proxies_let_through_and_wait_for_what_the_server_does() -> None:
    caddyfile = (DEPLOY / "Caddyfile").read_text(encoding="utf-8")
    settings = ServerSettings()
    assert int(re.findall(r"max_size (\d+)MiB", caddyfile)[0]) * 2**20 >= settings.max_body_bytes
    assert int(re.findall(r"response_header_timeout (\d+)s", caddyfile)[0]) > settings.request_timeout_s
    nginx = (DEPLOY / "nginx.conf").read_text(encoding="utf-8")
    assert int(re.findall(r"client_max_body_size (\d+)m;", nginx)[0]) * 2**20 >= settings.max_body_bytes
    assert int(re.findall(r"proxy_read_timeout (\d+)s;", nginx)[0]) > settings.request_timeout_s
    assert f"server {settings.host}:{settings.port};" in nginx
    compose = yaml.safe_load((DEPLOY / "compose.yml").read_text(encoding="utf-8"))
    assert compose["services"]["proxy"]["environment"]["UPSTREAM"] == f"server:{settings.port}"
