"""Pure: the part of the OpenAI API that the simulated models speak: requests, answers, chunks and errors.

A token is a word here, so that anybody can count them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

TOKEN = " token"
MAX_TOKENS = 16
"""What a request without max_tokens gets."""
LIMIT_TOKENS = 32_768

Json = dict[str, object]


@dataclass(frozen=True, slots=True)
class Completion:
    """What is asked for."""

    model: str
    prompt_tokens: int
    tokens: int
    stream: bool
    with_usage: bool


class RequestError(Exception):
    """A request that a model refuses: an HTTP status and the body that says why."""

    def __init__(self, status: int, message: str, code: str) -> None:
        super().__init__(message)
        self.status = status
        self.body: Json = error_body(message, code)


def error_body(message: str, code: str) -> Json:
    return {"error": {"message": message, "type": "invalid_request_error", "param": None, "code": code}}


def read_request(body: bytes, served: str) -> Completion:
    """A chat completion request for the model `served`. Raises RequestError."""
    try:
        asked = json.loads(body)
    except ValueError:
        raise RequestError(400, "The body is not JSON.", "invalid_json") from None
    if not isinstance(asked, Mapping):
        raise RequestError(400, "The body must be a JSON object.", "invalid_json")
    if asked.get("model") != served:
        raise RequestError(404, f"The model {asked.get('model')!r} does not exist; {served!r} does.", "model_not_found")
    tokens = asked.get("max_completion_tokens") or asked.get("max_tokens") or MAX_TOKENS
    if not isinstance(tokens, int) or isinstance(tokens, bool) or not 1 <= tokens <= LIMIT_TOKENS:
        raise RequestError(400, f"max_tokens must be a number from 1 to {LIMIT_TOKENS}.", "invalid_value")
    options = asked.get("stream_options")
    return Completion(
        model=served,
        prompt_tokens=_prompt_tokens(asked.get("messages")),
        tokens=tokens,
        stream=asked.get("stream") is True,
        with_usage=isinstance(options, Mapping) and options.get("include_usage") is True,
    )


def _prompt_tokens(messages: object) -> int:
    if not isinstance(messages, list) or not messages:
        raise RequestError(400, "messages must be a list with at least one message.", "invalid_value")
    count = 0
    for message in messages:
        content = message.get("content") if isinstance(message, Mapping) else None
        if not isinstance(content, str):
            raise RequestError(400, "Each message needs a role and a content of text.", "invalid_value")
        count += len(content.split())
    return count


def completion_body(asked: Completion, identity: str, created_s: int) -> Json:
    """The answer to a request that is not streamed."""
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": (TOKEN * asked.tokens).strip()},
        "finish_reason": "length",
    }
    return {**_head(asked, "chat.completion", identity, created_s), "choices": [choice], "usage": _usage(asked)}


def chunk(asked: Completion, identity: str, created_s: int, tokens: int, *, last: bool) -> bytes:
    """One event of a stream, with so many tokens in it; the last one brings the end of the stream with it."""
    choice = {"index": 0, "delta": {"content": TOKEN * tokens}, "finish_reason": "length" if last else None}
    head = _head(asked, "chat.completion.chunk", identity, created_s)
    event = _event({**head, "choices": [choice]})
    if last and asked.with_usage:
        event += _event({**head, "choices": [], "usage": _usage(asked)})
    return event + b"data: [DONE]\n\n" if last else event


def models_body(served: str, created_s: int) -> Json:
    model = {"id": served, "object": "model", "created": created_s, "owned_by": "spillway"}
    return {"object": "list", "data": [model]}


def _head(asked: Completion, kind: str, identity: str, created_s: int) -> Json:
    return {"id": identity, "object": kind, "created": created_s, "model": asked.model}


def _usage(asked: Completion) -> Json:
    total = asked.prompt_tokens + asked.tokens
    return {"prompt_tokens": asked.prompt_tokens, "completion_tokens": asked.tokens, "total_tokens": total}


def _event(value: Json) -> bytes:
    return b"data: " + json.dumps(value, separators=(",", ":")).encode() + b"\n\n"
