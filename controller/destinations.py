"""Pure: which hosts remotes and token issuers may be at. Whoever may write a ModelDeployment decides where the gateway
and the controller connect to, so what only they can reach (the node's metadata, loopback) has to be shut.

A name is judged as it is written. What it resolves to is judged when the controller itself connects; a gateway resolves
names on its own, so there a network policy has to do it.
"""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address, ip_network

LOCAL_ONLY = (
    "localhost",
    "*.localhost",
    "127.0.0.0/8",
    "::1/128",
    "0.0.0.0/8",
    "::/128",
    "169.254.0.0/16",
    "fe80::/10",
)
"""Loopback and link-local: what is denied in a cluster unless the settings say otherwise."""

Address = IPv4Address | IPv6Address


@dataclass(frozen=True, slots=True)
class Destinations:
    """Rules, each a DNS name, a name with '*' in it, an address or a network. `deny` wins; with `allow`, all else is
    denied.
    """

    allow: tuple[str, ...] = ()
    deny: tuple[str, ...] = ()

    def obstacle(self, host: str) -> str:
        """Why this host may not be used, empty if it may. `host`: a DNS name, or an IP address without brackets."""
        host = host.lower().rstrip(".")
        address = _address(host)
        if rule := next((rule for rule in self.deny if _fits(rule, host, address)), None):
            return f"{host} is a destination that the settings deny ({rule})"
        if self.allow and not any(_fits(rule, host, address) for rule in self.allow):
            return f"{host} is no destination that the settings allow"
        return ""


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
        address = ip_address(host)
    except ValueError:
        return None
    if isinstance(address, IPv6Address) and address.ipv4_mapped:
        return address.ipv4_mapped
    return address


def _fits(rule: str, host: str, address: Address | None) -> bool:
    if address is None:
        return fnmatchcase(host, rule)
    if "/" not in rule:
        return _address(rule) == address
    network = ip_network(rule)
    return isinstance(network, IPv6Network) == isinstance(address, IPv6Address) and address in network
