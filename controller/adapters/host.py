"""Shell: what a controller takes from its host: addresses, a clock, and a directory of its own."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path


class StartError(Exception):
    """`spillway run` cannot start; the message says why and what to change."""


def steady_clock() -> Callable[[], float]:
    """Seconds since the epoch that never step: the wall clock at the start and what has passed since, with sleep."""
    offset_s = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)
    return lambda: offset_s + time.clock_gettime(time.CLOCK_BOOTTIME)


def join(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def bind(flag: str, address: tuple[str, int], *, shared: bool = False) -> socket.socket:
    """A socket that is bound and does not listen. Raises StartError that names `flag` if the address cannot be had."""
    sock = socket.socket(socket.AF_INET6 if ":" in address[0] else socket.AF_INET)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT if shared else socket.SO_REUSEADDR, 1)
    try:
        sock.bind(address)
    except OSError as error:
        sock.close()
        raise StartError(f"{flag} {join(*address)}: {error.strerror or error}") from error
    return sock


@contextlib.contextmanager
def only_one(state_directory: Path) -> Iterator[None]:
    """Holds the state directory's lock: two controllers would overwrite each other's state."""
    try:
        state_directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        lock = (state_directory / "lock").open("a+")
    except OSError as error:
        raise StartError(f"--state-dir {state_directory} cannot be used: {error.strerror or error}") from None
    with lock as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            file.seek(0)
            owner = file.read().strip()
            raise StartError(
                f"another spillway (process {owner}) runs with the state directory {state_directory}; "
                "stop it, or give this one another: --state-dir"
            ) from None
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


def write_addresses(file: Path, addresses: Mapping[str, str]) -> None:
    """Tells whoever waits for the file that traffic can be served, and where."""
    temporary = file.with_suffix(".tmp")
    temporary.write_text(json.dumps(addresses))
    temporary.replace(file)
