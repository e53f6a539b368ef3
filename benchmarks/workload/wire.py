"""The few words of HTTP/1.1 that callers, Envoy and servers exchange here, read and written by hand.

A request is a POST whose body is the JSON array [context tokens, generated tokens]. An answer has two bytes: the first
one stands for the first token, the second one for the last.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import NamedTuple

ANSWER_BYTES = 2
FIRST_BYTE = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncontent-length: 2\r\n\r\n."
LAST_BYTE = b"."

_HEAD_END = b"\r\n\r\n"
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_STATUS = re.compile(rb"HTTP/1\.1 (\d{3})")
_DESTINATION = re.compile(rb"\r\nx-spillway-destination: *([^\r]*)")


@dataclass(frozen=True, slots=True)
class Received:
    """A message whose head, at least, is there. `rest`: what came behind it."""

    head: bytes
    body: bytes
    rest: bytes
    complete: bool


class AnswerHead(NamedTuple):
    """`destination`: the gateway's word for who answered; empty if nobody did."""

    status: int
    destination: str


def request(host: str, context_tokens: int, generated_tokens: int) -> bytes:
    body = f"[{context_tokens},{generated_tokens}]"
    return (
        f"POST /v1/chat/completions HTTP/1.1\r\nhost: {host}\r\ncontent-type: application/json\r\n"
        f"content-length: {len(body)}\r\n\r\n{body}"
    ).encode()


def tokens(body: bytes) -> tuple[int, int]:
    """The context and generated tokens that a request's body asks for. Raises ValueError."""
    context, generated = body.strip(b"[]").split(b",")
    return int(context), int(generated)


def page(text: str) -> bytes:
    """A whole answer with a metrics page."""
    return (
        f"HTTP/1.1 200 OK\r\ncontent-type: text/plain; version=0.0.4\r\ncontent-length: {len(text)}\r\n\r\n{text}"
    ).encode()


def read(data: bytes) -> Received | None:
    """The first message in `data`, None while its head is not. A message without content-length has no body."""
    end = data.find(_HEAD_END)
    if end < 0:
        return None
    head, start = data[:end], end + len(_HEAD_END)
    found = _LENGTH.search(head)
    stop = start + (int(found[1]) if found else 0)
    return Received(head, data[start:stop], data[stop:], len(data) >= stop)


def answer_head(head: bytes) -> AnswerHead:
    """Raises ValueError if this is no answer."""
    status = _STATUS.match(head)
    if status is None:
        raise ValueError(f"not an HTTP/1.1 answer: {head[:40]!r}")
    destination = _DESTINATION.search(head)
    return AnswerHead(int(status[1]), destination[1].decode() if destination else "")
