"""Pure: a fast reader for the YAML that most manifests are: block mappings and lists of values of one line each.

It knows little, and knows when it does not: whatever is not plainly that (blocks of text, anchors, tags, values over
several lines, flow within flow, anything but ASCII, every mistake) is None, and for `kube_yaml`. Invariant: what is
read here, `kube_yaml` reads as the same values. It takes a seventh of the time, most of which PyYAML spends on places
in the text that nobody asks for as long as nothing is wrong.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from controller.kube_yaml import BOOL, INT, NULL, TEXT, tag_of_plain

# ASCII that can be printed, without what has a meaning somewhere in a value that has no quotes.
_PLAIN = r"[A-Za-z0-9_./$(](?:[!\"$-9;-~]|:(?=[!-~])| (?=[!\"$-9;-~]))*"
_SHORT = r"[A-Za-z0-9_./](?:[A-Za-z0-9_./$@%+=~-])*"
_QUOTED = r"\"[ !#-\[\]-~]*\"|'[ -&(-~]*'"
_KEY = r"[A-Za-z_][A-Za-z0-9_./-]{0,99}"
_ITEM = rf"(?:{_SHORT}|{_QUOTED})"
_FLOW_LIST = rf"\[ *(?:{_ITEM}(?:, *{_ITEM})*)? *\]"
_FLOW_MAPPING = rf"\{{ *(?:{_KEY}: +{_ITEM}(?:, *{_KEY}: +{_ITEM})*)? *\}}"

_EMPTY = re.compile(r" *(?:#[ -~]*)?")
_LINE = re.compile(
    rf"( *)(- +)?(?:({_KEY}):(?: +|$))?({_PLAIN}|{_QUOTED}|{_FLOW_LIST}|{_FLOW_MAPPING})?(?: +#[ -~]*)? *"
)
_FLOW_ITEM = re.compile(rf"(?:({_KEY}): +)?({_ITEM})(?:, *)?")
_DECIMAL = re.compile(r"0|[1-9][0-9]{0,17}")

_NOTHING = object()
"""No value stands on this line: it follows below, or there is none."""


class _UnusualError(Exception):
    """Something for `kube_yaml`."""


@dataclass(frozen=True, slots=True)
class _Line:
    """What a line holds. `column`: where its key or value begins, after the dash of an `item`."""

    indent: int
    column: int
    item: bool
    key: str | None
    value: Any


@dataclass(slots=True)
class _Document:
    """A document as far as it has been read. `open`: the collections that may go on, outermost first, each with the
    column of its keys or dashes. `awaited`: a key whose value may follow, and the mapping and column it stands in.
    """

    line: int = 1
    value: Any = None
    open: list[tuple[int, Any]] | None = None
    awaited: tuple[dict[str, Any], str, int] | None = None


def documents(text: str) -> list[tuple[Any, int]] | None:
    """Each document's value, and the line where it begins, from 1. None: this is for `kube_yaml`."""
    try:
        return list(_documents(text))
    except _UnusualError:
        return None


def _documents(text: str) -> Iterator[tuple[Any, int]]:
    document: _Document | None = None
    for number, line in enumerate(text.split("\n"), start=1):
        if line == "---":
            if document:
                yield document.value, document.line
            document = _Document()
        elif (read := _line(line)) is not None:
            document = document or _Document()
            if document.open is None:
                document.line = number
            _take(document, read)
    if document:
        yield document.value, document.line


def _take(document: _Document, line: _Line) -> None:
    """Adds what a line holds. Raises _UnusualError if it has no place."""
    if document.open is None:
        if line.item or line.indent:
            raise _UnusualError
        document.value = {}
        document.open = [(0, document.value)]
    stack, awaited, document.awaited = document.open, document.awaited, None
    if awaited and (line.indent > awaited[2] or (line.item and line.indent == awaited[2])):
        inner: Any = [] if line.item else {}
        awaited[0][awaited[1]] = inner
        stack.append((line.indent, inner))
    while stack[-1][0] > line.indent or (not line.item and type(stack[-1][1]) is list):
        stack.pop()  # the outermost is a mapping in column 0
    column, innermost = stack[-1]
    if column != line.indent or line.item != (type(innermost) is list):
        raise _UnusualError
    if line.item and line.key is None:
        innermost.append(line.value)
        return
    if line.item:
        mapping: dict[str, Any] = {}
        innermost.append(mapping)
        stack.append((line.column, mapping))
        innermost = mapping
    if line.key is None or line.key in innermost:
        raise _UnusualError
    if line.value is _NOTHING:
        innermost[line.key] = None
        document.awaited = innermost, line.key, line.column
    else:
        innermost[line.key] = line.value


@lru_cache(maxsize=16_384)
def _line(text: str) -> _Line | None:
    """None for an empty line or a comment. Manifests of many models have most lines in common."""
    if _EMPTY.fullmatch(text):
        return None
    match = _LINE.fullmatch(text)
    if match is None:
        raise _UnusualError
    indent, dash, key, value = match.groups()
    if key is None and value is None:
        raise _UnusualError
    column = len(indent) + len(dash or "")
    return _Line(len(indent), column, dash is not None, key and _key(key), _NOTHING if value is None else _value(value))


def _value(text: str) -> Any:
    match text[0]:
        case "[":
            return [_scalar(value) for _, value in _FLOW_ITEM.findall(text[1:-1])]
        case "{":
            items = _FLOW_ITEM.findall(text[1:-1])
            mapping = {_key(key): _scalar(value) for key, value in items}
            if len(mapping) < len(items):
                raise _UnusualError
            return mapping
        case _:
            return _scalar(text)


def _key(text: str) -> str:
    if tag_of_plain(text) != TEXT:
        raise _UnusualError
    return text


def _scalar(text: str) -> str | int | bool | None:
    if text[0] in "\"'":
        return text[1:-1]
    tag = tag_of_plain(text)
    if tag == TEXT:
        return text
    if tag == BOOL:
        return text.lower() in ("true", "yes", "on")
    if tag == NULL:
        return None
    if tag == INT and _DECIMAL.fullmatch(text):
        return int(text)
    raise _UnusualError
