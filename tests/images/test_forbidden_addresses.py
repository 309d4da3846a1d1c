# ruff: noqa: RUF001
"""Spellings of addresses that aren't public: none of them is ever connected to."""

import socket
from typing import Any

import pytest

from sam4mllm_tool.errors import ImageError
from sam4mllm_tool.images.load import ImagePolicy, load_image

PLACES = {
    "loopback": """127.0.0.1 127.0.0.1. 127.0.0.1:80 127.0.0.1:8765 127.1 127.0.1 127.255.255.254 2130706433 0x7f000001 0x7F.1
        0x7f.0x0.0x0.0x1 0177.0.0.1 0177.0.0.01 017700000001 127.000.000.001 0x7f.0.1 00177.00.00.01 localhost LOCALHOST
        localhost. localhost:80 [::1] [::1]:80 [0:0:0:0:0:0:0:1] [0000:0000:0000:0000:0000:0000:0000:0001] [::0001]
        [::ffff:127.0.0.1] [::ffff:7f00:1] [::FFFF:7F00:0001] [0:0:0:0:0:ffff:127.0.0.1] [::127.0.0.1] [::7f00:1]
        [64:ff9b::127.0.0.1] [64:ff9b::7f00:1] [64:ff9b:1::7f00:1] [2002:7f00:1::] [2002:7f00:0001::1] [2001:0:7f00:1::]
        １２７.0.0.1 127。0。0。1 ①②⑦.⓪.⓪.① ⓛⓞⓒⓐⓛⓗⓞⓢⓣ %31%32%37.0.0.1 127%2e0%2e0%2e1""",
    "this host": "0 0.0.0.0 0x0 00000000 0.0.0.1 0.255.255.255 [::] [0:0:0:0:0:0:0:0] [::ffff:0.0.0.0] [64:ff9b::]",
    "cloud metadata": """169.254.169.254 169.254.169.254. 169.254.169.254:80 2852039166 0xa9fea9fe 0xa9.0xfe.0xa9.0xfe
        0251.0376.0251.0376 169.254.43518 169.16689662 [::ffff:169.254.169.254] [::ffff:a9fe:a9fe] [64:ff9b::a9fe:a9fe]
        [2002:a9fe:a9fe::] [fd00:ec2::254] [fe80::a9fe:a9fe] 100.100.100.200 192.0.0.192 3221225664 0xc00000c0
        168.63.129.16 2822734096 0xa83f8110 [::ffff:168.63.129.16] [64:ff9b::a83f:8110] １６９.２５４.１６９.２５４""",
    "private networks": """10.0.0.1 10.1 10.255.255.255 167772161 0xa000001 012.0.0.1 172.16.0.1 172.31.255.254 2886729729
        192.168.0.1 192.168.1 3232235521 0300.0250.0.1 0xc0.0xa8.0.1 100.64.0.1 100.127.255.254 [::ffff:10.0.0.1]
        [::ffff:c0a8:1] [64:ff9b::a00:1] [64:ff9b::192.168.0.1] [2002:c0a8:1::1] [2002:a00:1::] [fc00::1] [fd12:3456:789a::1]
        [fec0::1] [fe80::1] [febf::1]""",
    "multicast, reserved, documentation": """224.0.0.1 239.255.255.255 240.0.0.1 255.255.255.255 4294967295 0xffffffff
        192.0.2.1 198.51.100.1 203.0.113.1 198.18.0.1 192.88.99.1 192.0.0.8 [ff02::1] [ff0e::1] [2001:db8::1] [3fff::1]
        [100::1] [::2] [4000::1] [2001:10::1] [2001:20::1]""",
}
HOSTS = [(place, host) for place, hosts in PLACES.items() for host in hosts.split()]
URLS = [
    "http://example.com@127.0.0.1/a.png",
    "http://user:key@127.0.0.1/a.png",
    "http://127.0.0.1#@example.com/a.png",
    "http://127.0.0.1?@example.com/a.png",
    "http://127.0.0.1\\@example.com/a.png",
    "http://example.com\\@127.0.0.1/a.png",
    "http:127.0.0.1/a.png",
    "http:/127.0.0.1/a.png",
    "http:///127.0.0.1/a.png",
    "http://127.0.0.1:99999/a.png",
    "http://127.0.0.1:-1/a.png",
    "http://127.0.0.1:0/a.png",
    "http://127.0.0.1 /a.png",
    "http://127.0.0.1\t/a.png",
    "http://127.0.0.1\n/a.png",
    "http://127.0.0.1\0.example.com/a.png",
    "http://[::1/a.png",
    "http://::1/a.png",
    "http://[::1%25lo]/a.png",
    "http://[fe80::1%25eth0]/a.png",
    "http://[::ffff:127.0.0.1",
    "http://[127.0.0.1]/a.png",
    "HTTP://127.0.0.1/a.png",
    " http://127.0.0.1/a.png ",
    "gopher://127.0.0.1/a.png",
    "ftp://127.0.0.1/a.png",
    "file://127.0.0.1/etc/passwd",
    "dict://127.0.0.1:11211/stat",
    "http+unix://%2Fvar%2Frun%2Fdocker.sock/images/json",
    "ws://127.0.0.1/a.png",
]


@pytest.fixture
def connections(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What was connected to. Only addresses and this machine's names are looked up."""
    opened: list[Any] = []
    look_up = socket.getaddrinfo

    def getaddrinfo(host: str, *args: Any, **options: Any) -> Any:
        if host.rstrip(".") != "localhost":
            options["flags"] = socket.AI_NUMERICHOST
        return look_up(host, *args, **options)

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    monkeypatch.setattr(socket, "create_connection", lambda address, **_: opened.append(address) or socket.socket())
    return opened


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_no_spelling_of_a_forbidden_address_is_connected_to(place: str, scheme: str, connections: list[Any]) -> None:
    for host in PLACES[place].split():
        with pytest.raises(ImageError, match=r"not at a public address|cannot be found|malformed URL"):
            load_image(f"{scheme}://{host}/a.png", policy=ImagePolicy(allow_urls=True))
    assert connections == []


def test_there_are_a_hundred_spellings_and_most_are_recognized_as_addresses(connections: list[Any]) -> None:
    messages = []
    for _, host in HOSTS:
        with pytest.raises(ImageError) as caught:
            load_image(f"http://{host}/a.png", policy=ImagePolicy(allow_urls=True))
        messages.append(str(caught.value))
    assert len(HOSTS) >= 100
    assert sum("not at a public address" in message for message in messages) >= 100
    assert connections == []


@pytest.mark.parametrize("url", URLS)
def test_no_confusing_url_leads_to_a_forbidden_address(url: str, connections: list[Any]) -> None:
    with pytest.raises(ImageError) as caught:
        load_image(url, policy=ImagePolicy(allow_urls=True))
    assert connections == []
    assert len(str(caught.value)) < 300
