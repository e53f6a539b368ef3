"""The tests' own way to the API server, as administrator: it blocks, and is independent of the client under test."""

from __future__ import annotations

import time
from collections.abc import Callable
from http import HTTPStatus
from pathlib import Path
from typing import Any

import requests

Json = dict[str, Any]
MERGE_PATCH = "application/merge-patch+json"
_POLL_S = 0.02


class RequestError(Exception):
    """The API server's answer was an error."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(f"{status}: {message}")
        self.status = status


class Api:
    def __init__(self, server: str, ca: Path, certificate: Path, key: Path) -> None:
        self.server = server
        self._session = requests.Session()
        self._session.trust_env = False
        self._session.verify = str(ca)
        self._session.cert = (str(certificate), str(key))

    def request(self, method: str, path: str, body: object = None, content_type: str = "application/json") -> Json:
        """Decoded JSON. Raises RequestError."""
        headers = {"Content-Type": content_type}
        answer = self._session.request(method, self.server + path, json=body, headers=headers, timeout=30)
        if answer.status_code >= HTTPStatus.BAD_REQUEST:
            raise RequestError(answer.status_code, answer.text)
        decoded: Json = answer.json()
        return decoded

    def get(self, path: str) -> Json:
        return self.request("GET", path)

    def create(self, path: str, body: object) -> Json:
        return self.request("POST", path, body)

    def merge(self, path: str, body: object) -> Json:
        """Merge patch."""
        return self.request("PATCH", path, body, MERGE_PATCH)

    def delete(self, path: str, *, grace_s: int | None = None) -> None:
        """Not there is success. `grace_s` 0: gone at once, without a kubelet's word."""
        try:
            self.request("DELETE", path, None if grace_s is None else {"gracePeriodSeconds": grace_s})
        except RequestError as refused:
            if refused.status != HTTPStatus.NOT_FOUND:
                raise

    def exists(self, path: str) -> bool:
        try:
            self.get(path)
        except RequestError as refused:
            if refused.status != HTTPStatus.NOT_FOUND:
                raise
            return False
        return True

    def serves(self, path: str) -> bool:
        """Whether the answer is good: nothing that is missing, or behind it, counts as an error."""
        try:
            self.get(path)
        except RequestError:
            return False
        return True

    def ready(self) -> bool:
        """Whether it serves, and says so."""
        try:
            return self._session.get(f"{self.server}/readyz", timeout=5).ok
        except requests.RequestException:
            return False

    def close(self) -> None:
        self._session.close()


def wait_until(condition: Callable[[], bool], deadline_s: float, what: str, state: Callable[[], str] = str) -> None:
    """Blocks until `condition` holds. Raises TimeoutError naming `what`, and prints the `state` of things.

    pytest repeats errors in its summary, so what has many lines belongs to `state`.
    """
    deadline = time.monotonic() + deadline_s
    while not condition():
        if time.monotonic() > deadline:
            print(state())
            raise TimeoutError(f"not after {deadline_s:g} s: {what}")
        time.sleep(_POLL_S)
