"""Which addresses and URLs a callback may go to."""

from __future__ import annotations

import re
from ipaddress import ip_network

import pytest
from sdqueue_producers.webhook.networks import AddressPolicy
from sdqueue_producers.webhook.target import CallbackTarget

PUBLIC = AddressPolicy()


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "127.255.255.254", "0.0.0.0", "0.1.2.3", "10.0.0.1", "172.16.0.1", "172.31.255.255", "192.168.1.1",
        "169.254.0.1", "169.254.169.254", "100.64.0.1", "100.127.255.255", "192.0.0.8", "192.0.2.1", "198.18.0.1",
        "198.51.100.1", "203.0.113.1", "192.88.99.1", "224.0.0.1", "239.255.255.255", "240.0.0.1", "255.255.255.255",
        "::", "::1", "fe80::1", "fe80::1%eth0", "2606:4700::1111%1", "fc00::1", "fd12::1", "fec0::1", "ff02::1",
        "fd00:ec2::254", "2001:db8::1", "2001:2::1", "2001:10::1", "3fff::1", "100::1", "5f00::1", "4000::1",
        "::ffff:127.0.0.1", "::ffff:10.0.0.1", "::ffff:169.254.169.254", "::127.0.0.1", "::10.0.0.1",
        "::ffff:0:127.0.0.1", "64:ff9b::127.0.0.1", "64:ff9b::169.254.169.254", "64:ff9b:1::8.8.8.8",
        "2002:7f00:1::", "2002:a00:1::1", "2002:a9fe:a9fe::", "2001:0:7f00:1::", "2001:0:808:808::f5ff:fffe",
        "nonsense", "",
    ],
)  # fmt: skip
def test_is_not_connected_to(address: str) -> None:
    assert PUBLIC.problem(address) is not None


@pytest.mark.parametrize(
    "address",
    [
        "8.8.8.8", "1.1.1.1", "172.15.0.1", "172.32.0.1", "100.63.255.255", "100.128.0.1", "169.253.1.1",
        "223.255.255.1", "2606:4700:4700::1111", "2a00:1450::1", "::ffff:8.8.8.8", "64:ff9b::8.8.8.8",
    ],
)  # fmt: skip
def test_public_addresses_are_connected_to(address: str) -> None:
    assert PUBLIC.problem(address) is None


def test_an_operator_allows_a_network_and_only_that() -> None:
    policy = AddressPolicy((ip_network("10.1.0.0/16"), ip_network("fd12::/32")))
    assert policy.problem("10.1.2.3") is None
    assert policy.problem("::ffff:10.1.2.3") is None
    assert policy.problem("fd12::7") is None
    assert policy.problem("8.8.8.8") is None
    assert "allow_networks" in (policy.problem("10.2.0.1") or "")


def test_metadata_services_are_never_connected_to_whatever_is_allowed() -> None:
    policy = AddressPolicy((ip_network("0.0.0.0/0"), ip_network("::/0")))
    for address in (
        "169.254.169.254",
        "169.254.170.2",
        "168.63.129.16",
        "64:ff9b::168.63.129.16",
        "100.100.100.200",
        "192.0.0.192",
        "fd20:ce::254",
        "::ffff:169.254.169.254",
        "2002:a9fe:a9fe::",
        "fd00:ec2::254",
        "0.0.0.0",
        "::",
        "ff02::1",
    ):
        assert policy.problem(address) is not None, address
    assert policy.problem("127.0.0.1") is None


def test_without_tls_only_the_networks_that_are_allowed() -> None:
    policy = AddressPolicy((ip_network("10.0.0.0/8"),), public=False)
    assert policy.problem("10.0.0.1") is None
    assert "http://" in (policy.problem("8.8.8.8") or "")


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("http://example.com/x", "https://"),
        ("ftp://example.com/x", "https://"),
        ("//example.com/x", "https://"),
        ("example.com/x", "https://"),
        ("", "visible ASCII"),
        ("https://", "host"),
        ("https:///x", "host"),
        ("https://user:word@example.com/", "user name"),
        ("https://example.com@127.0.0.1/", "user name"),
        ("https://example.com./x", "dot"),
        ("https://127.0.0.1./x", "dot"),
        ("https://example.com\\@127.0.0.1/", "visible ASCII"),
        ("https://exa mple.com/", "visible ASCII"),
        ("https://example.com/\r\nX: y", "visible ASCII"),
        ("https://exämple.com/", "visible ASCII"),
        ("https://ⓔxample.com/", "visible ASCII"),
        ("https://127.0.0.%31/", "no name"),
        ("https://example.com:0/", "port 0"),
        ("https://example.com:99999/", "no URL"),
        ("https://example.com/#x", "fragment"),
        ("https://127.0.0.1/", "no public address"),
        ("https://2130706433/", "four decimal numbers"),
        ("https://127.1/", "four decimal numbers"),
        ("https://0177.0.0.1/", "four decimal numbers"),
        ("https://0x7f.0.0.1/", "four decimal numbers"),
        ("https://0x7f000001/", "four decimal numbers"),
        ("https://127.0.0.0x1/", "four decimal numbers"),
        ("https://169.254.169.254/latest", "never a receiver"),
        ("https://[::1]/", "no public address"),
        ("https://[::ffff:127.0.0.1]/", "no public address"),
        ("https://[fe80::1%25eth0]/", "zone"),
        ("https://[::1/", "no URL"),
        ("https://[nonsense]/", "no URL"),
        ("https://-x.example.com/", "no name"),
        ("https://a..example.com/", "no name"),
        ("https://example.com:443:80/", "no URL"),
        ("https://[2606:4700::1]x/", "no URL"),
        ("https://[8.8.8.8]/", "no URL"),
    ],
)  # fmt: skip
def test_a_url_that_is_refused_when_the_configuration_is_read(url: str, told: str) -> None:
    with pytest.raises(ValueError, match=re.escape(told)):
        CallbackTarget.parse(url, PUBLIC)


def test_urls_that_will_do() -> None:
    for url in (
        "https://example.com/hook?x=1",
        "https://EXAMPLE.com:8443/",
        "https://8.8.8.8/",
        "https://[2606:4700::1]:1/",
    ):
        assert CallbackTarget.parse(url, PUBLIC).url == url


def test_http_needs_a_word_of_the_operator_and_a_network() -> None:
    with pytest.raises(ValueError, match="allow_http"):
        CallbackTarget.parse("http://10.0.0.1/", AddressPolicy((ip_network("10.0.0.0/8"),)))
    with pytest.raises(ValueError, match="allow_networks"):
        CallbackTarget.parse("http://10.0.0.1/", PUBLIC, allow_http=True)
    target = CallbackTarget.parse("http://crm.lan/", AddressPolicy((ip_network("10.0.0.0/8"),)), allow_http=True)
    assert target.policy.problem("10.0.0.1") is None
    assert target.policy.problem("8.8.8.8") is not None
