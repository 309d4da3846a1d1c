"""Tokens, owners, and limits on what a request may send; files and hosts that a server opens."""

import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from PIL import Image

from sam4mllm_tool.server.settings import SettingsError, load_settings
from tests.server.http_servers import create_ring_models, serve
from tests.server.mcp.mcp_servers import IMAGE_URI

TOKENS = ("first-token", "second-token")
BODY = {"image": IMAGE_URI, "expressions": ["the left ring"], "method": "box"}


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    root = tmp_path_factory.mktemp("root")
    Image.new("RGB", (10, 10)).save(root / "a.png")
    settings = {"image_root": (root,), "allow_url_host": ("images.example",), "max_body_bytes": 20_000, "body_timeout_s": 0.3}
    with serve(create_ring_models(), auth_token=TOKENS, **settings) as url:
        yield url


def post(url: str, body: dict[str, object], token: str = TOKENS[0]) -> httpx.Response:
    return httpx.post(f"{url}/v1/segment", json=body, headers={"Authorization": f"Bearer {token}"})


@pytest.mark.parametrize("header", [None, "Bearer wrong", "Basic Zmlyc3Q=", "first-token", "Bearer first-tokenx"])
def test_a_request_without_a_token_of_the_server_is_refused(url: str, header: str | None) -> None:
    headers = {} if header is None else {"Authorization": header}
    answer = httpx.post(f"{url}/v1/segment", json=BODY, headers=headers)
    assert (answer.status_code, answer.json()["error"]) == (401, "AccessError")
    assert answer.headers["www-authenticate"].startswith("Bearer")


def test_health_wants_no_token_and_metrics_do(url: str) -> None:
    assert [httpx.get(url + path).status_code for path in ("/healthz", "/readyz", "/metrics")] == [200, 200, 401]


def test_what_one_token_keeps_another_cannot_use(url: str) -> None:
    headers = {"Authorization": f"Bearer {TOKENS[0]}"}
    handle = httpx.post(f"{url}/v1/embed", json={"image": IMAGE_URI}, headers=headers).json()["image"]
    assert post(url, {**BODY, "image": handle}).status_code == 200
    other = post(url, {**BODY, "image": handle}, TOKENS[1])
    assert (other.status_code, other.json()["error"]) == (404, "UnknownImageError")


@pytest.mark.parametrize("sent", [b"", b"POST /v1/segment HTTP/1.1\r\nHost: x\r\n"], ids=["nothing", "half a head"])
def test_a_connection_without_a_whole_head_is_closed(url: str, sent: bytes) -> None:
    host, port = url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        connection.sendall(sent)
        assert connection.recv(100) == b""


def test_the_second_request_of_a_connection_has_as_long_and_an_idle_one_is_kept(url: str) -> None:
    with httpx.Client(base_url=url) as client:
        assert client.get("/healthz").status_code == 200
        time.sleep(0.5)
        stream = client.get("/healthz").extensions["network_stream"]
        assert client.get("/healthz").extensions["network_stream"].get_extra_info("client_addr") == stream.get_extra_info(
            "client_addr"
        )


def test_a_body_over_the_limit_is_refused_before_it_is_sent(url: str) -> None:
    host, port = url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as connection:
        head = f"POST /v1/segment HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKENS[0]}\r\nContent-Length: 999999999\r\n\r\n"
        connection.sendall(head.encode())
        assert connection.recv(100).startswith(b"HTTP/1.1 413")


def test_a_body_of_no_declared_length_is_refused_at_the_limit(url: str) -> None:
    chunks = (b"x" * 5000 for _ in range(8))
    headers = {"Authorization": f"Bearer {TOKENS[0]}", "Content-Type": "application/json"}
    assert httpx.post(f"{url}/v1/segment", content=chunks, headers=headers).status_code == 413


def test_a_body_that_does_not_arrive_is_not_waited_for(url: str) -> None:
    host, port = url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as connection:
        head = f"POST /v1/segment HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKENS[0]}\r\nContent-Length: 99\r\n\r\n{{"
        connection.sendall(head.encode())
        assert connection.recv(100).startswith(b"HTTP/1.1 408")


@pytest.mark.parametrize(
    ("image", "status", "detail"),
    [
        ("a.png", 200, ""),
        ("../../etc/hostname", 422, "not in a folder that images may be opened from"),
        ("/etc/hostname", 422, "not in a folder that images may be opened from"),
        ("http://other.example/a.png", 422, "not fetched from other.example here: allowed are images.example"),
        ("http://images.example@other.example/a.png", 422, "user name"),
    ],
)
def test_only_the_folders_and_hosts_of_the_settings_are_opened(url: str, image: str, status: int, detail: str) -> None:
    answer = post(url, {**BODY, "image": image})
    assert answer.status_code == status, answer.text
    assert detail in answer.text


def test_pages_of_other_origins_are_allowed_by_the_setting_alone(url: str) -> None:
    ask = {"Origin": "https://page.example", "Access-Control-Request-Method": "POST"}
    assert "access-control-allow-origin" not in httpx.options(f"{url}/v1/segment", headers=ask).headers
    with serve(create_ring_models(), allow_origin="https://page.example") as open_url:
        allowed = httpx.options(f"{open_url}/v1/segment", headers=ask).headers["access-control-allow-origin"]
    assert allowed == "https://page.example"


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        pytest.param({}, 200, id="by its address"),
        pytest.param({"Host": "localhost:8765"}, 200, id="by its name"),
        pytest.param({"Host": "192.168.1.7:8765"}, 200, id="by another address"),
        pytest.param({"Host": "evil.example"}, 403, id="by a name that was bound to its address"),
        pytest.param({"Host": "localhost.evil.example:80"}, 403, id="by a name like its own"),
        pytest.param({"Origin": "https://evil.example"}, 403, id="from another site's page"),
        pytest.param({"Host": "localhost:1", "Origin": "http://localhost:2"}, 403, id="from another port's page"),
        pytest.param({"Host": "localhost:1", "Origin": "http://localhost:1"}, 200, id="from its own page"),
        pytest.param({"Origin": "null"}, 403, id="from a page without a site"),
        pytest.param({"Origin": "https://page.example"}, 200, id="from a page that is allowed"),
    ],
)
def test_a_server_without_tokens_answers_its_own_names_and_pages_alone(headers: dict[str, str], status: int) -> None:
    with serve(create_ring_models(), allow_origin="https://page.example") as open_url:
        answer = httpx.post(f"{open_url}/v1/segment", json=BODY, headers=headers)
        assert answer.status_code == status, answer.text


def test_a_server_is_ready_once_its_models_are_loaded() -> None:
    asked = threading.Event()

    def load() -> object:
        asked.wait()
        return create_ring_models()

    with serve(load) as url:  # type: ignore[arg-type]
        early = httpx.get(f"{url}/readyz")
        asked.set()
        assert (early.status_code, early.headers["retry-after"]) == (503, "5")
        while httpx.get(f"{url}/readyz").status_code != 200:
            time.sleep(0.02)


def test_a_flag_wins_over_the_environment_and_that_over_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "server.toml"
    file.write_text('port = 1\nmax_batch = 2\nmax_queue = 3\nallow_origin = ["https://a.example"]\n')
    monkeypatch.setenv("SAM4MLLM_PORT", "10")
    monkeypatch.setenv("SAM4MLLM_MAX_BATCH", "20")
    monkeypatch.setenv("SAM4MLLM_ALLOW_URL_HOST", "a.example, b.example")
    settings = load_settings(file, port=100)
    assert (settings.port, settings.max_batch, settings.max_queue) == (100, 20, 3)
    assert (settings.allow_origin, settings.allow_url_host) == (("https://a.example",), ("a.example", "b.example"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("colour = 1", "colour: Extra inputs are not permitted"),
        ("port = 99999", "port: Input should be less than or equal to 65535"),
        ("port", "are not TOML"),
        ('image_root = ["/nowhere"]', "'/nowhere' is not a folder"),
    ],
)
def test_settings_that_cannot_be_used_are_errors(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "server.toml").write_text(content)
    with pytest.raises(SettingsError, match=message):
        load_settings(tmp_path / "server.toml")


def test_tokens_are_read_from_a_file_and_never_shown(tmp_path: Path) -> None:
    file = tmp_path / "tokens"
    file.write_text("one\ntwo\n")
    settings = load_settings(auth_token_file=file, auth_token="three")
    assert set(settings.tokens) == {"one", "two", "three"}
    assert "three" not in repr(settings)
    file.write_text("\n")
    with pytest.raises(SettingsError, match="is empty"):
        _ = settings.tokens
