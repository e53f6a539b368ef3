"""Ports for servers that cannot take port 0."""

from __future__ import annotations

import itertools
import os
import socket

_FIRST, _COUNT = 11_000, 6_000
"""Below those that the kernel hands out: else one that is free now may be somebody else's a moment later."""
_places = itertools.count(os.getpid() * 97)


def free_port(address: str = "127.0.0.1") -> int:
    """One that nobody has, and that this process gets once."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    for place in itertools.islice(_places, _COUNT):
        port = _FIRST + place % _COUNT
        try:
            socket.create_server((address, port), family=family).close()
        except OSError:
            continue
        return port
    raise RuntimeError(f"no port of {_FIRST} to {_FIRST + _COUNT - 1} is free at {address}")
