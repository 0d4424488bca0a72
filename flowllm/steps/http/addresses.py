"""Which addresses a request may go to. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Final

_NAT64: Final = IPv6Network("64:ff9b::/96")
_PRIVATE: Final = tuple(map(ip_network, ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7")))
_SHARED: Final = IPv4Network("100.64.0.0/10")
_CLOSED: Final = tuple(map(IPv4Network, ("192.0.0.0/24", "192.88.99.0/24"))) + tuple(
    map(IPv6Network, ("fec0::/10", "64:ff9b:1::/48", "2001::/23", "3fff::/20", "5f00::/16"))
)
"""Special ranges of IANA's registries that the standard library, at least of some versions, takes for public."""


def is_public(address: str) -> bool:
    """Whether an address is one of the open internet: not private, loopback, link-local, multicast, shared (carrier
    NAT), reserved, a tunnel's or unspecified; nor an IPv6 form of an IPv4 address that is. False for what is no
    address in its usual spelling."""
    try:
        found = ip_address(address.partition("%")[0])
    except ValueError:
        return False
    inner = _embedded(found) if isinstance(found, IPv6Address) else None
    return _open(found if inner is None else inner)


def described(address: str) -> str:
    """What kind of address it is, for a sentence: `a loopback address`."""
    try:
        found = ip_address(address.partition("%")[0])
    except ValueError:
        return "no address in its usual spelling"
    inner = _embedded(found) if isinstance(found, IPv6Address) else None
    if inner is not None:
        return f"it stands for {inner}, {described(str(inner))}"
    return f"{next((kind for kind, holds in _kinds(found) if holds), 'a reserved')} address"


def _kinds(address: IPv4Address | IPv6Address) -> Iterator[tuple[str, bool]]:
    yield "an unspecified", address.is_unspecified
    yield "a loopback", address.is_loopback
    yield "a link-local", address.is_link_local
    yield "a multicast", address.is_multicast
    yield "a private", any(address.version == network.version and address in network for network in _PRIVATE)
    yield "a shared (carrier NAT)", address.version == _SHARED.version and address in _SHARED


def _open(address: IPv4Address | IPv6Address) -> bool:
    return (
        address.is_global
        and not (address.is_multicast or address.is_reserved or address.is_unspecified)
        and not any(address.version == network.version and address in network for network in _CLOSED)
    )


def _embedded(address: IPv6Address) -> IPv4Address | None:
    """The IPv4 address that an IPv6 address stands for: mapped, 6to4, or translated (NAT64)."""
    if address.ipv4_mapped is not None:
        return address.ipv4_mapped
    if address.sixtofour is not None:
        return address.sixtofour
    return IPv4Address(int(address) & 0xFFFFFFFF) if address in _NAT64 else None
