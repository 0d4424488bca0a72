"""Which addresses a request may go to. Pure."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import Final

_NAT64: Final = IPv6Network("64:ff9b::/96")
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
