"""Pure: which hosts remotes and token issuers may be at. Whoever may write a ModelDeployment decides where the gateway
and the controller connect to, so what only they can reach (the node's metadata, loopback) has to be shut.

A host is judged as it is written, and once more by the address that the controller has connected to; what a gateway
finds behind a name is for a network policy to judge. Each way to write an address but the usual one is refused: what
one program takes for a name, another connects to (0x7f.1 is 127.0.0.1).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

LOCAL_ONLY = (
    "localhost",
    "*.localhost",
    "ip6-localhost",
    "ip6-loopback",
    "127.0.0.0/8",
    "::1/128",
    "0.0.0.0/8",
    "::/128",
    "169.254.0.0/16",
    "fe80::/10",
    "fd00:ec2::254/128",
    "metadata.google.internal",
)
"""Loopback, link-local and metadata of the node: what is denied in a cluster unless the settings say otherwise."""

_NAME = re.compile(r"([a-z0-9_-]+\.)*(?!(0x[0-9a-f]*|[0-9]+)$)[a-z0-9_-]+")
"""Whose last label is no number, as it is in any address."""

Address = IPv4Address | IPv6Address


@dataclass(frozen=True, slots=True)
class Destinations:
    """Rules: a DNS name or an address, with '*' for any text, or a network. `deny` wins; with `allow`, all else is
    denied.
    """

    allow: tuple[str, ...] = ()
    deny: tuple[str, ...] = ()

    def obstacle(self, host: str) -> str:
        """Why this host may not be used, empty if it may. `host`: a DNS name, or an IP address without brackets."""
        host = host.lower().removesuffix(".")
        address = _address(host)
        if address is None and not _NAME.fullmatch(host):
            return f"{host} is neither a DNS name nor an IP address in its usual form"
        if rule := next((rule for rule in self.deny if _fits(rule, host, address)), None):
            return f"{host} is a destination that the settings deny ({rule})"
        if self.allow and not any(_fits(rule, host, address) for rule in self.allow):
            return f"{host} is no destination that the settings allow"
        return ""

    def denies(self, address: str) -> str:
        """Why an IP address that a name has led to may not be used, empty if it may."""
        return Destinations(deny=self.deny).obstacle(address)


def check_rule(rule: str) -> str:
    """The rule, in lower case. Raises ValueError if it is neither a name nor a network."""
    rule = rule.strip().lower()
    if "/" in rule:
        try:
            ip_network(rule)
        except ValueError as error:
            raise ValueError(f"{rule!r} is no network: {error}") from None
    elif not rule or any(c.isspace() for c in rule):
        raise ValueError("must be a DNS name, a name with '*', an IP address or a network such as 10.0.0.0/8")
    return rule


def _address(host: str) -> Address | None:
    try:
        address = ip_address(host.partition("%")[0])  # without the interface
    except ValueError:
        return None
    if isinstance(address, IPv6Address) and address.ipv4_mapped:
        return address.ipv4_mapped
    return address


def _fits(rule: str, host: str, address: Address | None) -> bool:
    if "/" in rule:
        return address is not None and address in _network(rule)
    return fnmatchcase(str(address or host), rule) or (address is not None and address == _address(rule))


@lru_cache(maxsize=1024)
def _network(rule: str) -> IPv4Network | IPv6Network:
    return ip_network(rule)
