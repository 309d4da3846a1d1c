"""Fetches a picture's bytes from a public web address without opening the way to anything else.

A URL is somebody else's input, and whoever writes it may mean a service behind our own firewall. So a host is resolved
once, every address it resolves to must be public, the connection goes to exactly those addresses (a second look-up could
answer differently), and each redirect starts over. What is sent and read together is bounded in time, what is read also
in bytes. Proxies named by the environment are not used: they would do the resolving.
"""

import io
import socket
import ssl
import time
from contextlib import closing
from http.client import HTTPConnection, HTTPException
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address
from typing import TYPE_CHECKING
from urllib.parse import SplitResult, quote, urljoin, urlsplit

from sam4mllm_tool.errors import ImageError

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

MAX_REDIRECTS = 3
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_CHUNK = 1 << 16
_GLOBAL_UNICAST = IPv6Network("2000::/3")
_NAT64 = IPv6Network("64:ff9b::/96")


def fetch(url: str, *, max_bytes: int, seconds: float = 10.0, allow_private_addresses: bool = False) -> bytes:
    """The bytes behind an http or https URL, at most `max_bytes` of them, within `seconds` (name look-ups not counted).

    Raises ImageError where the URL is malformed, leads to an address that is not public, answers with anything but the
    content, or goes over a limit. The message names the host, never the query, which may hold a key.
    """
    deadline = time.monotonic() + seconds
    for _ in range(MAX_REDIRECTS + 1):
        parts = _split(url)
        addresses = _resolve(parts, allow_private_addresses)
        try:
            answer = _get(parts, addresses, max_bytes, deadline)
        except TimeoutError as error:
            raise ImageError(f"{parts.hostname} did not send the picture within {seconds:g} seconds") from error
        except (OSError, HTTPException) as error:
            raise ImageError(f"the picture could not be fetched from {parts.hostname}: {error}") from error
        if isinstance(answer, bytes):
            return answer
        url = urljoin(url, answer)
    raise ImageError(f"{parts.hostname} redirects more than {MAX_REDIRECTS} times; give the picture's final URL")


def _split(url: str) -> SplitResult:
    try:
        url.encode()
        parts = urlsplit(url)
        port = parts.port
    except UnicodeEncodeError as error:
        raise ImageError("malformed URL: it has half a character in it") from error
    except ValueError as error:
        raise ImageError(f"malformed URL: {error}") from error
    if parts.scheme not in ("http", "https"):
        raise ImageError(f"expected an http or https URL, got the scheme {parts.scheme!r}")
    if not parts.hostname or port == 0:
        raise ImageError("malformed URL: it names no host, or port 0")
    if parts.username is not None:
        raise ImageError("a URL with a user name is not fetched; give one without")
    return parts


def _resolve(parts: SplitResult, allow_private_addresses: bool) -> list[tuple[str, int]]:
    """The addresses and port of a host, all of them public unless private ones are allowed."""
    host, port = parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise ImageError(f"the host {host!r} cannot be found: {error}") from error
    addresses = [str(address[0]) for *_, address in found]
    if not allow_private_addresses and not all(_is_public(address) for address in addresses):
        raise ImageError(f"{host} is not at a public address; only pictures on the public internet are fetched")
    return [(address, port) for address in addresses]


def _is_public(address: str) -> bool:
    ip: IPv4Address | IPv6Address = ip_address(address)
    if isinstance(ip, IPv6Address):  # an IPv4 address may travel inside
        ip = IPv4Address(int(ip) & 0xFFFFFFFF) if ip in _NAT64 else ip.ipv4_mapped or ip.sixtofour or ip
    if isinstance(ip, IPv6Address) and ip not in _GLOBAL_UNICAST:
        return False
    return ip.is_global and not ip.is_multicast


def _get(parts: SplitResult, addresses: list[tuple[str, int]], max_bytes: int, deadline: float) -> bytes | str:
    """One request. Gives the content, or where a redirect leads."""
    connection = _Connection(parts, addresses, deadline)
    target = quote(parts.path or "/", safe="/%:@!$&'()*+,;=~-._")
    query = quote(parts.query, safe="/?%:@!$&'()*+,;=~-._[]|")
    headers = {"User-Agent": "sam4mllm-tool", "Accept": "image/*", "Accept-Encoding": "identity", "Connection": "close"}
    with closing(connection):
        connection.request("GET", f"{target}?{query}" if query else target, headers=headers)
        with connection.getresponse() as response:
            location = response.getheader("Location")
            if response.status in _REDIRECTS and location:
                return location
            if response.status != 200:
                raise ImageError(f"{parts.hostname} answered {response.status} {response.reason}, not with a picture")
            content = bytearray()
            announced = response.length or 0
            while announced <= max_bytes and (chunk := response.read(_CHUNK)) and len(content) <= max_bytes:
                content += chunk
            if max(announced, len(content)) > max_bytes:
                raise ImageError(f"the picture at {parts.hostname} is over the limit of {max_bytes:,} bytes")
            return bytes(content)


class _Connection(HTTPConnection):
    """HTTP to addresses that were checked, under the host's name, which TLS verifies."""

    def __init__(self, parts: SplitResult, addresses: list[tuple[str, int]], deadline: float) -> None:
        self._tls = parts.scheme == "https"
        self.default_port = 443 if self._tls else 80
        super().__init__(parts.hostname or "", parts.port)
        self._addresses = addresses
        self._deadline = deadline

    def connect(self) -> None:
        for place, address in enumerate(self._addresses, start=1):
            try:
                sock = socket.create_connection(address, timeout=_left(self._deadline))
                break
            except OSError:
                if place == len(self._addresses):
                    raise
        try:
            if self._tls:
                sock.settimeout(_left(self._deadline))
                sock = ssl.create_default_context().wrap_socket(sock, server_hostname=self.host)
        except BaseException:
            sock.close()
            raise
        self.sock = _TimedSocket(sock, self._deadline)


class _TimedSocket:
    """As much of a socket as http.client uses, with one deadline for all that is sent and read.

    A socket's own timeout starts afresh with every byte, so a server that trickles would hold us for ever.
    """

    def __init__(self, sock: socket.socket, deadline: float) -> None:
        self._sock = sock
        self._deadline = deadline

    def sendall(self, data: bytes) -> None:
        self._sock.settimeout(_left(self._deadline))
        self._sock.sendall(data)

    def makefile(self, _mode: str) -> io.BufferedReader:
        return io.BufferedReader(_TimedReader(self._sock, self._deadline))

    def close(self) -> None:
        self._sock.close()


class _TimedReader(io.RawIOBase):
    def __init__(self, sock: socket.socket, deadline: float) -> None:
        self._sock = sock
        self._file = sock.makefile("rb", buffering=0)  # keeps the socket open after http.client lets go of it
        self._deadline = deadline

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: "WriteableBuffer") -> int | None:
        self._sock.settimeout(_left(self._deadline))
        return self._file.readinto(buffer)

    def close(self) -> None:
        self._file.close()
        super().close()


def _left(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError("out of time")
    return left
