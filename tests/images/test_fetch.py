"""Images behind URLs: what is fetched from a real server, what is refused, and that every refusal is an ImageError."""

import contextlib
import logging
import shutil
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from io import BytesIO
from pathlib import Path
from typing import Any

import certifi
import numpy as np
import pytest
from PIL import Image

from sam4mllm_tool.errors import ImageError
from sam4mllm_tool.images import fetch
from sam4mllm_tool.images.load import ImagePolicy, load_image


def encode_png(image: Image.Image) -> bytes:
    file = BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


RED = Image.new("RGB", (16, 8), (255, 0, 0))
PNG = encode_png(RED)
SERVER_TEXT = "IGNORE-PREVIOUS-INSTRUCTIONS"
"""What no error message may repeat."""


class Handler(BaseHTTPRequestHandler):
    """Answers a GET as its server's `routes` do: path -> function of the handler."""

    server: "Server"

    def do_GET(self) -> None:
        self.server.requests.append((self.path, self.headers["Host"]))
        with contextlib.suppress(ConnectionError):
            self.server.routes[self.path](self)
            self.server.completed.append(self.path)

    def log_message(self, *_: Any) -> None:
        pass

    def respond(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status, SERVER_TEXT)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    def respond_raw(self, response: bytes) -> None:
        self.wfile.write(response)


class Server(HTTPServer):
    routes: dict[str, Callable[[Handler], None]]
    requests: list[tuple[str, str]]
    """Path and Host header of each request."""
    completed: list[str]
    """Paths of the responses that were sent to their end."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


@contextlib.contextmanager
def serving(routes: dict[str, Callable[[Handler], None]], context: ssl.SSLContext | None = None) -> Iterator[Server]:
    server = Server(("127.0.0.1", 0), Handler)
    server.routes, server.requests, server.completed = routes, [], []
    server.handle_error = lambda *_: None  # type: ignore[method-assign]
    if context:
        server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def trickle(handler: Handler, start: bytes) -> None:
    """Send `start`, then a byte now and then, each well within the timeout of a single read, for up to 30 seconds."""
    handler.wfile.write(start)
    for _ in range(600):
        handler.wfile.write(b".")
        time.sleep(0.05)


CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
TWO_CHUNKS = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in (PNG[:20], PNG[20:]))

ROUTES: dict[str, Callable[[Handler], None]] = {
    "/image.png?of=%C3%A9": lambda h: h.respond(200, PNG),
    "/image.png": lambda h: h.respond(200, PNG, Content_Length=str(len(PNG))),
    "/chunked": lambda h: h.respond_raw(CHUNKED + TWO_CHUNKS + b"0\r\n\r\n"),
    "/unfinished": lambda h: h.respond_raw(CHUNKED + TWO_CHUNKS),
    "/see-other": lambda h: h.respond(303, Location="/image.png"),
    "/not-modified": lambda h: h.respond(304, Location="/image.png"),
    "/to-other-host": lambda h: h.respond(302, Location=f"http://localhost:{h.server.server_port}/image.png"),
    "/hop": lambda h: h.respond(302, Location="/image.png"),
    "/hop2": lambda h: h.respond(301, Location="hop"),
    "/hop3": lambda h: h.respond(307, Location="/hop2"),
    "/hop4": lambda h: h.respond(308, Location="/hop3"),
    "/cookie": lambda h: h.respond(302, Location="/cookie-echo", Set_Cookie="a=b"),
    "/cookie-echo": lambda h: h.respond(404 if "Cookie" in h.headers or "Authorization" in h.headers else 200, PNG),
    "/to-file": lambda h: h.respond(302, Location="file:///etc/hostname"),
    "/to-private": lambda h: h.respond(302, Location="http://10.1.2.3/image.png"),
    "/to-open-bracket": lambda h: h.respond(302, Location="http://[::1"),
    "/to-prose": lambda h: h.respond(302, Location=f"http://{SERVER_TEXT} and more/"),
    "/to-port-prose": lambda h: h.respond(302, Location=f"http://a:{SERVER_TEXT}/"),
    "/to-user": lambda h: h.respond(302, Location=f"http://{SERVER_TEXT}@127.0.0.1/"),
    "/nowhere": lambda h: h.respond(302),
    "/missing": lambda h: h.respond(404, SERVER_TEXT.encode()),
    "/odd-status": lambda h: h.respond(599, b""),
    "/announced": lambda h: h.respond(200, b"", Content_Length="1000000"),
    "/endless": lambda h: h.respond(200, b"x" * 3_000_000),
    "/endless-chunk": lambda h: h.respond_raw(CHUNKED + b"fffffff\r\n" + b"x" * 3_000_000),
    "/chunk-minus-5": lambda h: h.respond_raw(CHUNKED + b"-5\r\nabcde\r\n0\r\n\r\n"),
    "/chunk-minus-1": lambda h: h.respond_raw(CHUNKED + b"-1\r\n" + b"x" * 3_000_000),
    "/length-minus-1": lambda h: h.respond(200, PNG, Content_Length="-1"),
    "/length-prose": lambda h: h.respond(200, PNG, Content_Length=SERVER_TEXT),
    "/page": lambda h: h.respond(200, b"<html>"),
    "/cut": lambda h: h.respond(200, PNG[:-30], Content_Length=str(len(PNG))),
    "/trickling-header": lambda h: trickle(h, b"HTTP/1.0 200 OK\r\nX-Slow: "),
    "/trickling-body": lambda h: trickle(h, b"HTTP/1.0 200 OK\r\n\r\n"),
    "/endless-header": lambda h: h.respond_raw(b"HTTP/1.0 200 OK\r\nX-Long: " + b"x" * 3_000_000),
    "/not-http": lambda h: h.respond_raw(SERVER_TEXT.encode() + b"\0\1\2\n"),
    "/hang-up": lambda _: None,
}
LOCAL = ImagePolicy(allow_urls=True, allow_private_addresses=True, max_bytes=100_000)


@pytest.fixture
def server() -> Iterator[Server]:
    with serving(ROUTES) as server:
        yield server


@pytest.mark.parametrize(
    "path", ["/image.png", "/image.png?of=é", "/chunked", "/hop", "/hop2", "/hop3", "/see-other", "/image.png#part"]
)
def test_an_image_is_fetched_through_at_most_three_redirects(server: Server, path: str) -> None:
    policy = replace(LOCAL, max_bytes=len(PNG))
    assert np.array_equal(np.asarray(load_image(server.url + path, policy=policy)), np.asarray(RED))
    with pytest.raises(ImageError, match=f"limit of {len(PNG) - 1} bytes"):
        load_image(server.url + path, policy=replace(LOCAL, max_bytes=len(PNG) - 1))


@pytest.mark.parametrize(
    ("path", "message"),
    [
        pytest.param("/hop4", "more than 3 times", id="four redirects"),
        pytest.param("/to-file", "scheme 'file'", id="redirect to a file"),
        pytest.param("/to-open-bracket", r"127\.0\.0\.1 redirects to a malformed URL", id="redirect to an open bracket"),
        pytest.param("/to-prose", r"127\.0\.0\.1 redirects to a malformed URL", id="redirect to a host with spaces"),
        pytest.param("/to-port-prose", r"127\.0\.0\.1 redirects to a malformed URL", id="redirect to a port of letters"),
        pytest.param("/to-user", "user name", id="redirect to a URL with a user name"),
        pytest.param("/nowhere", "answered 302", id="redirect to nowhere"),
        pytest.param("/not-modified", "answered 304", id="a status that is no redirect"),
        pytest.param("/unfinished", "response is cut off", id="as long as allowed, and no end"),
        pytest.param("/missing", "answered 404 Not Found", id="status 404"),
        pytest.param("/odd-status", "answered 599, ", id="status without a standard phrase"),
        pytest.param("/announced", "limit of 100,000 bytes", id="too long by its header"),
        pytest.param("/endless", "limit of 100,000 bytes", id="too long without a length"),
        pytest.param("/endless-chunk", "limit of 100,000 bytes", id="too long in one chunk"),
        pytest.param("/chunk-minus-5", "could not be fetched.*not valid HTTP", id="chunk size -5"),
        pytest.param("/chunk-minus-1", "could not be fetched.*not valid HTTP", id="chunk size -1"),
        pytest.param("/length-minus-1", "could not be fetched.*not valid HTTP", id="content length -1"),
        pytest.param("/length-prose", "could not be fetched.*not valid HTTP", id="content length of letters"),
        pytest.param("/page", "none of the formats", id="a page"),
        pytest.param("/cut", "cut off", id="cut off"),
        pytest.param("/endless-header", "could not be fetched", id="endless header"),
        pytest.param("/not-http", "could not be fetched", id="not HTTP"),
        pytest.param("/hang-up", "could not be fetched", id="no response"),
    ],
)
def test_a_bad_response_is_an_image_error_without_the_servers_text(server: Server, path: str, message: str) -> None:
    policy = replace(LOCAL, max_bytes=len(PNG)) if path == "/unfinished" else LOCAL
    with pytest.raises(ImageError, match=message) as caught:
        load_image(server.url + path, policy=policy)
    assert SERVER_TEXT.lower() not in str(caught.value).lower()
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("path", ["/trickling-header", "/trickling-body"])
def test_the_deadline_holds_for_the_whole_response(path: str) -> None:
    policy = ImagePolicy(allow_urls=True, allow_private_addresses=True, url_seconds=0.3)
    with serving(ROUTES) as server, pytest.raises(ImageError, match=r"127\.0\.0\.1 did not send the image within 0\.3 seconds"):
        load_image(server.url + path, policy=policy)
    assert (len(server.requests), server.completed) == (1, []), "the client hung up before the response was complete"


def test_the_deadline_holds_for_the_tls_handshake() -> None:
    policy = ImagePolicy(allow_urls=True, allow_private_addresses=True, url_seconds=0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent, pytest.raises(ImageError, match=r"within 0\.2 seconds"):
        load_image(f"https://127.0.0.1:{silent.getsockname()[1]}/", policy=policy)


def test_the_deadline_holds_for_the_name_look_up(monkeypatch: pytest.MonkeyPatch) -> None:
    answer = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: answer.wait(60))
    with pytest.raises(ImageError, match=r"images\.test did not send the image within 0\.1 seconds"):
        load_image("http://images.test/a.png", policy=ImagePolicy(allow_urls=True, url_seconds=0.1))
    assert [thread.daemon for thread in threading.enumerate() if thread.name == "look-up"] == [True], (
        "it keeps no process alive"
    )
    answer.set()


def test_whatever_is_sent_or_received_ends_at_the_deadline() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        stream = fetch._DeadlineStream(ours, time.monotonic() + 0.1)
        with pytest.raises(TimeoutError):
            stream.write(bytes(2**24))  # which nobody reads
        theirs.send(b"late")
        for act in (
            lambda: stream.read(4),
            lambda: stream.write(b"late"),
            lambda: stream.start_tls(ssl.create_default_context()),
        ):
            with pytest.raises(TimeoutError):
                act()
        assert ours.fileno() == -1, "a connection without TLS is closed"


@pytest.mark.parametrize("act", ["read", "start_tls"])
def test_a_silent_server_is_left_at_the_deadline(act: str) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        stream = fetch._DeadlineStream(ours, time.monotonic() + 0.1)
        with pytest.raises(TimeoutError):
            stream.read(4) if act == "read" else stream.start_tls(ssl.create_default_context(), "images.test")


def test_only_allowed_hosts_are_fetched_from(server: Server) -> None:
    policy = replace(LOCAL, url_hosts=("127.0.0.1", "images.test:80"))
    assert load_image(server.url + "/image.png", policy=policy)
    with pytest.raises(ImageError, match=r"not fetched from localhost here: allowed are 127\.0\.0\.1, images\.test:80"):
        load_image(server.url + "/to-other-host", policy=policy)


def test_a_server_without_tls_is_an_image_error(server: Server) -> None:
    with pytest.raises(ImageError, match=r"127\.0\.0\.1: it doesn't speak TLS"):
        load_image(server.url.replace("http", "https") + "/image.png", policy=LOCAL)


def test_a_closed_port_is_an_image_error() -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    with pytest.raises(ImageError, match=r"127\.0\.0\.1: .*refused"):
        load_image(f"http://127.0.0.1:{port}/", policy=LOCAL)


def test_proxies_cookies_and_netrc_are_not_used(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login me password secret")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    assert load_image(server.url + "/cookie", policy=LOCAL)


def test_the_query_is_not_logged(server: Server, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO), pytest.raises(ImageError):
        load_image(server.url + "/missing?key=secret", policy=LOCAL)
    assert "secret" not in caplog.text


# Addresses


@pytest.mark.parametrize(
    "host",
    [
        pytest.param("127.0.0.1", id="loopback"),
        pytest.param("127.1", id="loopback, short"),
        pytest.param("2130706433", id="loopback as one number"),
        pytest.param("0x7f.0.0.1", id="loopback in hexadecimal"),
        pytest.param("localhost", id="loopback by name"),
        pytest.param("0.0.0.0", id="this host"),
        pytest.param("10.0.0.1", id="private 10"),
        pytest.param("172.16.0.1", id="private 172.16"),
        pytest.param("192.168.1.1", id="private 192.168"),
        pytest.param("169.254.169.254", id="link-local, cloud metadata"),
        pytest.param("100.64.0.1", id="carrier-grade NAT"),
        pytest.param("224.0.0.1", id="multicast"),
        pytest.param("255.255.255.255", id="broadcast"),
        pytest.param("240.0.0.1", id="reserved"),
        pytest.param("192.0.0.192", id="Oracle's metadata"),
        pytest.param("192.0.0.9", id="protocol assignment"),
        pytest.param("168.63.129.16", id="Azure's platform"),
        pytest.param("192.88.99.1", id="6to4 relay"),
        pytest.param("100.100.100.200", id="Alibaba's metadata"),
        pytest.param("[fd00:ec2::254]", id="Amazon's metadata 6"),
        pytest.param("[64:ff9b::a83f:8110]", id="Azure's platform behind NAT64"),
        pytest.param("[64:ff9b:1::7f00:1]", id="loopback behind local NAT64"),
        pytest.param("[3fff::1]", id="documentation 6, newer"),
        pytest.param("[2001:0:7f00:1::]", id="Teredo"),
        pytest.param("[::1]", id="loopback 6"),
        pytest.param("[::]", id="unspecified 6"),
        pytest.param("[::ffff:127.0.0.1]", id="loopback mapped into 6"),
        pytest.param("[::127.0.0.1]", id="loopback, IPv4-compatible 6"),
        pytest.param("[64:ff9b::7f00:1]", id="loopback behind NAT64"),
        pytest.param("[2002:7f00:1::]", id="loopback inside 6to4"),
        pytest.param("[fe80::1]", id="link-local 6"),
        pytest.param("[fc00::1]", id="private 6"),
        pytest.param("[fec0::1]", id="site-local 6"),
        pytest.param("[ff02::1]", id="multicast 6"),
        pytest.param("[2001:db8::1]", id="documentation 6"),
    ],
)
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_addresses_that_are_not_public_are_refused(scheme: str, host: str) -> None:
    with pytest.raises(ImageError, match="not at a public address"):
        load_image(f"{scheme}://{host}/a.png", policy=ImagePolicy(allow_urls=True))


@pytest.mark.parametrize("address", ["8.8.8.8", "1.1.1.1", "2606:4700::1111", "64:ff9b::808:808", "::ffff:8.8.8.8"])
def test_public_addresses_are_public(address: str) -> None:
    assert fetch._is_public(address)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        pytest.param("http://", "no host", id="no host"),
        pytest.param("http:///a.png", "no host", id="empty host"),
        pytest.param("http://[::1", "malformed", id="open bracket"),
        pytest.param("http://a:b/", "malformed", id="port is a word"),
        pytest.param("http://a:65536/", "malformed", id="port too large"),
        pytest.param("http://a:-1/", "malformed", id="negative port"),
        pytest.param("http://a:0/", "malformed", id="port 0"),
        pytest.param("http://1.2.3.999/", "malformed", id="not an IPv4 address"),
        pytest.param("http://xn--/", "cannot be found", id="invalid punycode"),
        pytest.param("http://a b/", "malformed", id="space in the host"),
        pytest.param(f"http://{'a.' * 200}example/", "malformed", id="host too long"),
        pytest.param(f"http://example.com/{'a' * 70_000}", "malformed", id="URL too long"),
        pytest.param("http://me:secret@example.com/", "user name", id="user name"),
        pytest.param(f"http://{'a' * 70}.example/", "cannot be found", id="label too long"),
        pytest.param("http://no-such-host.invalid/", "cannot be found", id="host unknown"),
        pytest.param("http://1.1.1.1/\ud800", "half a character", id="half a character in the path"),
        pytest.param("http://1.1.1.1/?key=secret\udcff", "half a character", id="half a character in the query"),
        pytest.param("http://\ud800/", "half a character", id="half a character in the host"),
    ],
)
def test_a_malformed_url_is_an_image_error_without_its_secrets(url: str, message: str) -> None:
    with pytest.raises(ImageError, match=message) as caught:
        load_image(url, policy=ImagePolicy(allow_urls=True))
    assert "secret" not in str(caught.value)


def test_the_first_and_the_last_port_are_ports() -> None:
    assert [fetch._parse_url(f"http://images.test:{port}/").port for port in (1, 65535)] == [1, 65535]


@pytest.mark.parametrize(
    "url",
    ["http://[2001:DB8::1]/a.png", "http://[2001:db8:0:0::1]:80/a.png", "https://[2001:db8::0.0.0.1]/", "http://[2001:db8::1]"],
)
def test_an_ipv6_address_without_a_port_is_a_host(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, int]] = []
    monkeypatch.setattr(socket, "getaddrinfo", lambda host, port, **_: asked.append((host, port)) or [])
    policy = ImagePolicy(allow_urls=True, url_hosts=("[2001:DB8::1]",), allow_private_addresses=True)
    with pytest.raises(ImageError, match="from 2001:db8::1: the host has no address"):
        load_image(url, policy=policy)
    assert asked == [("2001:db8::1", 443 if url.startswith("https") else 80)]


def test_a_redirect_is_checked_like_the_first_url(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch, "_is_public", lambda address: address == "127.0.0.1")
    policy = ImagePolicy(allow_urls=True)
    assert load_image(server.url + "/hop", policy=policy)
    with pytest.raises(ImageError, match=r"10\.1\.2\.3 is not at a public address"):
        load_image(server.url + "/to-private", policy=policy)


def test_the_connection_goes_to_the_address_that_was_checked(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    lookups: list[str] = []
    real = socket.getaddrinfo

    def getaddrinfo(host: str, *args: Any, **kwargs: Any) -> Any:
        """Resolve as a rebinding name server does: the second answer is another address."""
        if host == "images.test":
            lookups.append(host)
            host = "127.0.0.1" if len(lookups) == 1 else "127.0.0.2"
        return real(host, *args, **kwargs)

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    assert load_image(f"http://images.test:{server.server_port}/image.png", policy=LOCAL)
    assert lookups == ["images.test"]
    assert server.requests == [("/image.png", f"images.test:{server.server_port}")]


def test_a_host_with_any_private_address_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    entries = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 80)) for address in ("8.8.8.8", "192.168.0.1")]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: entries)
    with pytest.raises(ImageError, match="not at a public address"):
        load_image("http://images.test/a.png", policy=ImagePolicy(allow_urls=True))


def test_the_next_address_is_tried_where_one_refuses(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    real = socket.getaddrinfo

    def getaddrinfo(host: str, *args: Any, **kwargs: Any) -> Any:
        hosts = ("127.0.0.2", "127.0.0.1") if host == "images.test" else (host,)
        return [entry for each in hosts for entry in real(each, *args, **kwargs)]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    assert load_image(f"http://images.test:{server.server_port}/image.png", policy=LOCAL)


@pytest.mark.skipif(shutil.which("openssl") is None, reason="makes a certificate with openssl")
def test_https_verifies_the_hosts_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"]
    names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    make = ["openssl", "req", "-x509", *curve, "-nodes", "-days", "2", *names]
    subprocess.run([*make, "-keyout", str(key), "-out", str(certificate)], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    server_names: list[str | None] = []
    context.sni_callback = lambda _socket, name, _context: server_names.append(name)
    with serving(ROUTES, context) as server:
        url = f"https://localhost:{server.server_port}/image.png"
        monkeypatch.setattr(certifi, "where", lambda: str(certificate))  # the system's certificates count, and no package's
        with pytest.raises(ImageError, match="its certificate isn't valid"):
            load_image(url, policy=LOCAL)
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        assert load_image(url, policy=LOCAL).size == RED.size
        assert server_names == ["localhost", "localhost"]
        with pytest.raises(ImageError, match="its certificate isn't valid"):
            load_image(url.replace("localhost", "127.0.0.1"), policy=LOCAL)
