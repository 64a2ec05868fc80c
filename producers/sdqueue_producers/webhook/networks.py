"""Networks: which addresses a callback may connect to."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Final

IP = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

# The special-purpose registries of IANA, written out, since what `ipaddress` takes for global has changed between
# releases of Python.
_SPECIAL_V4: Final = tuple(
    ip_network(net)
    for net in (
        "0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.0.0.0/24",
        "192.0.2.0/24", "192.31.196.0/24", "192.52.193.0/24", "192.88.99.0/24", "192.168.0.0/16", "192.175.48.0/24",
        "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/4", "240.0.0.0/4",
    )
)  # fmt: skip
_PUBLIC_V6: Final = IPv6Network("2000::/3")
_SPECIAL_V6: Final = tuple(
    IPv6Network(net) for net in ("2001::/23", "2001:db8::/32", "2002::/16", "2620:4f:8000::/48", "3fff::/20")
)

_NEVER: Final = tuple(
    ip_network(net)
    for net in (
        "0.0.0.0/8", "224.0.0.0/4", "255.255.255.255/32", "::/128", "ff00::/8",
        "169.254.169.254/32", "169.254.170.2/32", "169.254.170.23/32", "fd00:ec2::254/128", "fd00:ec2::23/128",
        "168.63.129.16/32", "fd20:ce::254/128", "100.100.100.200/32", "192.0.0.192/32",
    )
)  # fmt: skip
"""Nobody's receiver: no address, several of them, and the metadata services of clouds, which hand out credentials: of
AWS (machines, containers, pods), Azure (whose second one has a public address), Google, Alibaba and Oracle."""

_MAPPED: Final = IPv6Network("::ffff:0:0/96")
_COMPATIBLE: Final = IPv6Network("::/96")
_NAT64: Final = IPv6Network("64:ff9b::/96")
_SIX_TO_FOUR: Final = IPv6Network("2002::/16")
_TEREDO: Final = IPv6Network("2001::/32")


@dataclass(frozen=True)
class AddressPolicy:
    """Public addresses, and the private networks that the operator has named.

    Parameters:
        allowed: networks besides the public ones.
        public: whether public addresses will do; else only ``allowed`` ones, as for a URL without TLS.
    """

    allowed: Sequence[Network] = ()
    public: bool = True

    def problem(self, address: str) -> str | None:
        """Why this address is not connected to; ``None`` where it may be.

        An IPv6 address that has an IPv4 address inside leads there by translation or a tunnel, so both are checked.
        """
        if "%" in address:
            return f"{address} has a zone, which only addresses of the local link have"
        try:
            ip = ip_address(address)
        except ValueError:
            return f"{address!r} is no address"
        for one in (ip, *_embedded(ip)):
            if any(one in net for net in _NEVER if net.version == one.version):
                return f"{_named(ip, one)} is never a receiver of callbacks"
        goals = _embedded(ip) or (ip,)
        for one in goals:
            if self._allows(one):
                continue
            if not _is_public(one):
                return f"{_named(ip, one)} is no public address; the operator may allow its network in allow_networks"
            if not self.public:
                return f"{_named(ip, one)} is not in allow_networks, and http:// is for those alone"
        return None

    def _allows(self, ip: IP) -> bool:
        return any(ip in net for net in self.allowed if net.version == ip.version)


def parse_network(text: str) -> Network:
    """Read a network such as ``10.0.0.0/8``.

    Raises:
        ValueError: it is none.
    """
    try:
        return ip_network(text)
    except ValueError as error:
        raise ValueError(f"{text[:60]!r} is no network, such as 10.0.0.0/8: {error}") from None


def _embedded(ip: IP) -> tuple[IPv4Address, ...]:
    """The IPv4 addresses inside an IPv6 address, by all the ways to put one there."""
    if isinstance(ip, IPv4Address):
        return ()
    last = IPv4Address(int(ip) & 0xFFFFFFFF)
    if ip in _MAPPED or ip in _NAT64:
        return (last,)
    if ip in _COMPATIBLE and int(ip) > 1:  # ::1 is loopback, :: is none
        return (last,)
    if ip in _SIX_TO_FOUR:
        return (IPv4Address((int(ip) >> 80) & 0xFFFFFFFF),)
    if ip in _TEREDO:
        return IPv4Address((int(ip) >> 64) & 0xFFFFFFFF), IPv4Address(int(last) ^ 0xFFFFFFFF)
    return ()


def _is_public(ip: IP) -> bool:
    if isinstance(ip, IPv4Address):
        return not _in(ip, _SPECIAL_V4)
    return ip in _PUBLIC_V6 and not _in(ip, _SPECIAL_V6)


def _in(ip: IP, networks: Iterable[Network]) -> bool:
    return any(ip in net for net in networks)


def _named(ip: IP, inside: IP) -> str:
    return f"{ip}" if ip == inside else f"{ip}, which leads to {inside},"
