"""Download an image from a public web address without giving access to anything else.

A URL may come from a stranger who means a service behind our own firewall. Therefore a host is resolved once, every address
that it resolves to must be public, the connection goes to exactly these addresses (a second look-up could answer differently),
and each redirect is checked like the first URL. One deadline covers look-ups, connecting, TLS and the whole transfer; the body
is counted while it arrives. Error messages name the host, but neither the query, which may hold a key, nor the server's text.

URLs are parsed by httpx and requests are sent by httpcore, httpx's own transport: httpx's client logs each URL with its query
and has no public parameter for the network backend, which is where the addresses and the deadline are enforced. httpcore
itself reads no environment, uses no proxy, follows no redirect and keeps no cookies.
"""

import os
import re
import socket
import ssl
import threading
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from http import HTTPStatus
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address, ip_network
from queue import Empty, SimpleQueue
from typing import Any

import httpcore
import httpx

from sam4mllm_tool.errors import ImageError

__all__ = ["MAX_REDIRECTS", "fetch_image_bytes"]

MAX_REDIRECTS = 3
_REDIRECT_STATUSES = frozenset({301, 302, 303, 307, 308})
_DEFAULT_PORTS = {"http": 80, "https": 443}
_HOST_NAME = re.compile(r"[a-z0-9._:-]{1,253}")  # ASCII, as sent; colons are those of IPv6
_GLOBAL_UNICAST = IPv6Network("2000::/3")
_NAT64 = IPv6Network("64:ff9b::/96")
_NOT_PUBLIC = tuple(
    map(
        ip_network,
        (
            "192.0.0.0/24",  # protocol assignments; at 192.0.0.192 is Oracle's metadata service
            "168.63.129.16/32",  # Azure's platform services
            "192.88.99.0/24",  # relays of 6to4
            "3fff::/20",  # documentation
        ),
    )
)
"""What counts as global in the registry or in some version of Python, and isn't a place for images."""
_HEADERS = {
    "User-Agent": "sam4mllm-tool",
    "Accept": "image/*",
    "Accept-Encoding": "identity",  # the body is not decompressed: max_bytes holds for what arrives
    "Connection": "close",
}


def fetch_image_bytes(
    url: str,
    *,
    max_bytes: int,
    timeout_s: float,
    allow_private_addresses: bool,
    hosts: Collection[str] | None,
) -> bytes:
    """Return the content of an http or https URL, following at most `MAX_REDIRECTS` redirects.

    Args:
        url: Without user name and password.
        max_bytes: Largest accepted content, in bytes.
        timeout_s: For connecting and the whole transfer, name look-ups and redirects included, in seconds.
        allow_private_addresses: Also connect to addresses that are not on the public internet.
        hosts: The only hosts that the URL and its redirects may lead to; None for any.

    Raises:
        ImageError: The URL is malformed, leads to an address that is not public or does not answer with status 200, or a
            limit is exceeded.
    """
    deadline = time.monotonic() + timeout_s
    target = _parse_url(url)
    for _ in range(MAX_REDIRECTS + 1):
        if hosts is not None and _host(target) not in set(map(_normalize_host, hosts)):
            raise ImageError(f"images are not fetched from {_host(target)} here: allowed are {', '.join(sorted(hosts))}")
        host = _host(target)
        try:
            addresses = _resolve_host(target, allow_private_addresses, deadline)
            with _open_response(target, addresses, deadline) as response:
                location = _redirect_location(response)
                if location is None:
                    return _read_content(response, host, max_bytes)
        except TimeoutError as error:
            raise ImageError(f"{host} did not send the image within {timeout_s:g} seconds") from error
        except httpcore.ProtocolError as error:  # its message quotes the server
            raise ImageError(
                f"the image could not be fetched from {host}: its response is cut off or not valid HTTP"
            ) from error
        except OSError as error:
            raise ImageError(f"the image could not be fetched from {host}: {_describe_failure(error)}") from error
        target = _parse_url(location, base=target)
    raise ImageError(
        f"the URL redirects more than {MAX_REDIRECTS} times, lastly to {_host(target)}; give the image's final URL"
    )


def _describe_failure(error: OSError) -> str:
    """Say why a connection failed, without what a certificate or a library says about it."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return "its certificate isn't valid for it"
    if isinstance(error, ssl.SSLError):
        return "it doesn't speak TLS as it should"
    return os.strerror(error.errno) if error.errno else str(error)


def _parse_url(url: str, *, base: httpx.URL | None = None) -> httpx.URL:
    """Parse and check a URL, or what a redirect from `base` leads to. Raises ImageError."""
    what = f"{_host(base)} redirects to a malformed URL" if base else "malformed URL"
    try:
        url.encode()
        parsed = base.join(url) if base else httpx.URL(url)
    except UnicodeEncodeError as error:
        raise ImageError(f"{what}: it contains half a character (an unpaired surrogate)") from error
    except (httpx.InvalidURL, ValueError) as error:
        raise ImageError(f"{what}: its host or port can't be read") from error
    if parsed.scheme not in _DEFAULT_PORTS:
        raise ImageError(f"expected an http or https URL, got the scheme {parsed.scheme[:16]!r}")
    if parsed.userinfo:
        raise ImageError("a URL with a user name is not fetched; give one without")
    if not parsed.raw_host:
        raise ImageError(f"{what}: it has no host")
    if not _HOST_NAME.fullmatch(_host(parsed)) or not 0 < _port(parsed) < 2**16:
        raise ImageError(f"{what}: its host or port is not valid")
    return parsed


def _host(url: httpx.URL) -> str:
    """The host in ASCII: what is looked up, compared and shown in messages."""
    return _normalize_host(url.raw_host.decode("ascii"))


def _normalize_host(host: str) -> str:
    """Return a host in lower case, an IPv6 address without brackets and in its shortest form."""
    host = host.lower().removeprefix("[").removesuffix("]")
    with suppress(ValueError):
        host = str(IPv6Address(host))
    return host


def _port(url: httpx.URL) -> int:
    return _DEFAULT_PORTS[url.scheme] if url.port is None else url.port


def _resolve_host(url: httpx.URL, allow_private_addresses: bool, deadline: float) -> list[str]:
    """Return the host's addresses.

    Raises:
        ImageError: The host has none, or, unless private ones are allowed, one that isn't public.
        TimeoutError: The deadline passed.
    """
    host = _host(url)
    try:
        entries = _look_up(host, _port(url), _seconds_left(deadline))
    except TimeoutError:
        raise
    except (OSError, UnicodeError) as error:
        raise ImageError(f"the host {host!r} cannot be found: {error}") from error
    addresses = [str(socket_address[0]) for *_, socket_address in entries]
    if not allow_private_addresses and not all(map(_is_public, addresses)):
        raise ImageError(f"{host} is not at a public address; only images on the public internet are fetched")
    return addresses


def _look_up(host: str, port: int, timeout_s: float) -> list[tuple[Any, ...]]:
    """Look a name up in a thread that may be left behind: the system's resolver has no deadline."""
    answers: SimpleQueue[list[tuple[Any, ...]] | Exception] = SimpleQueue()

    def work() -> None:
        try:
            answers.put(list(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)))
        except Exception as error:  # noqa: BLE001  # raised in the caller's thread
            answers.put(error)

    threading.Thread(target=work, daemon=True, name="look-up").start()
    try:
        answer = answers.get(timeout=timeout_s)
    except Empty:
        raise TimeoutError from None
    if isinstance(answer, Exception):
        raise answer
    return answer


def _is_public(address: str) -> bool:
    ip: IPv4Address | IPv6Address = ip_address(address)
    if isinstance(ip, IPv6Address):  # an IPv4 address may be embedded
        ip = IPv4Address(int(ip) & 0xFFFFFFFF) if ip in _NAT64 else ip.ipv4_mapped or ip.sixtofour or ip
    is_unicast = isinstance(ip, IPv4Address) or ip in _GLOBAL_UNICAST
    return is_unicast and ip.is_global and not ip.is_multicast and not any(ip in network for network in _NOT_PUBLIC)


@contextmanager
def _open_response(url: httpx.URL, addresses: Sequence[str], deadline: float) -> Iterator[httpcore.Response]:
    """Send one GET request to one of `addresses`; yield the response with its body still to be read."""
    context = ssl.create_default_context() if url.scheme == "https" else None  # reads certificates, which takes a while
    backend = _PinnedBackend(addresses, deadline)
    target = httpcore.URL(scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path)
    headers = [("Host", url.netloc.decode("ascii")), *_HEADERS.items()]
    with (
        httpcore.ConnectionPool(context, network_backend=backend) as pool,
        pool.stream("GET", target, headers=headers) as response,
    ):
        yield response


def _redirect_location(response: httpcore.Response) -> str | None:
    location = httpx.Headers(response.headers).get("Location")
    return location or None if response.status in _REDIRECT_STATUSES else None


def _read_content(response: httpcore.Response, host: str, max_bytes: int) -> bytes:
    """Read the body, at most `max_bytes` of it. Raises ImageError for another status than 200 and for a longer body."""
    if response.status != HTTPStatus.OK:
        raise ImageError(f"{host} answered {_describe_status(response.status)}, not with an image")
    content = bytearray()
    announced = int(httpx.Headers(response.headers).get("Content-Length", "0"))
    if announced <= max_bytes:
        for chunk in response.iter_stream():
            content += chunk
            if len(content) > max_bytes:
                break
    if max(announced, len(content)) > max_bytes:
        raise ImageError(f"the image at {host} is over the limit of {max_bytes:,} bytes")
    return bytes(content)


def _describe_status(status: int) -> str:
    try:
        return f"{status} {HTTPStatus(status).phrase}"  # the server's own phrase could be anything
    except ValueError:
        return str(status)


class _PinnedBackend(httpcore.NetworkBackend):
    """Connects to the addresses that were checked, whatever host the request names. TLS verifies the host's name."""

    def __init__(self, addresses: Sequence[str], deadline: float) -> None:
        self._addresses = addresses
        self._deadline = deadline

    def connect_tcp(self, host: str, port: int, *_: Any, **__: Any) -> httpcore.NetworkStream:  # noqa: ARG002
        failure = OSError("the host has no address")
        for address in self._addresses:
            try:
                sock = socket.create_connection((address, port), timeout=_seconds_left(self._deadline))
            except OSError as error:
                failure = error
            else:
                return _DeadlineStream(sock, self._deadline)
        raise failure


class _DeadlineStream(httpcore.NetworkStream):
    """A socket with one deadline for everything that is sent and received.

    A socket's own timeout, and httpx's, start again with every byte, so that a slow server could hold a caller for ever. The
    timeouts that httpcore passes are therefore ignored.
    """

    def __init__(self, sock: socket.socket, deadline: float) -> None:
        self._sock = sock
        self._deadline = deadline

    def read(self, max_bytes: int, *_: Any, **__: Any) -> bytes:
        self._sock.settimeout(_seconds_left(self._deadline))
        return self._sock.recv(max_bytes)

    def write(self, buffer: bytes, *_: Any, **__: Any) -> None:
        self._sock.settimeout(_seconds_left(self._deadline))
        self._sock.sendall(buffer)

    def close(self) -> None:
        self._sock.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, *_: Any, **__: Any
    ) -> httpcore.NetworkStream:
        try:
            self._sock.settimeout(_seconds_left(self._deadline))
            return _DeadlineStream(ssl_context.wrap_socket(self._sock, server_hostname=server_hostname), self._deadline)
        except BaseException:
            self.close()
            raise


def _seconds_left(deadline: float) -> float:
    """Raises TimeoutError at the deadline."""
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError("the deadline has passed")
    return left
