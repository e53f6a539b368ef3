"""Pure: which series of a metric are meant, as PromQL, as a test on labels, and in the Kubernetes API's text form.

As in Prometheus, a label that a series does not have equals the empty string. Values are always literal: nothing a user
writes in a label selector is ever read as a regular expression or as PromQL.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from controller.api import LabelSelector, LabelSelectorRequirement

_NAME = re.compile(r"[^\W\d][\w:.]*|:[\w:.]*")
_CLASSIC_METRIC = re.compile(r"[A-Za-z_:][A-Za-z0-9_:]*")
_CLASSIC_LABEL = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_LABEL_KEY = re.compile(r"[A-Za-z0-9][-\w./]*", re.ASCII)
_LABEL_VALUE = re.compile(r"([A-Za-z0-9]([-\w.]*[A-Za-z0-9])?)?", re.ASCII)
_REGEX_SPECIAL = re.compile(r"[\\.+*?()|\[\]{}^$]")
_ESCAPES = str.maketrans({"\\": r"\\", '"': r"\"", "\n": r"\n"})


@dataclass(frozen=True, slots=True)
class Matcher:
    """The label `name` has one of `values` (sorted, without duplicates), or if `negated` none of them."""

    name: str
    values: tuple[str, ...]
    negated: bool = False

    def matches(self, labels: Mapping[str, str]) -> bool:
        return (labels.get(self.name, "") in self.values) is not self.negated


def is_metric_name(text: str) -> bool:
    """Whether this is a metric's name and not a PromQL expression. No expression looks like `my.dotted.name`."""
    return _NAME.fullmatch(text) is not None


def matchers_of(selector: LabelSelector | None) -> tuple[Matcher, ...]:
    """A Kubernetes label selector; all of its parts must hold. Sorted, so that equal selectors give equal queries."""
    if selector is None:
        return ()
    matchers = {Matcher(name, (value,)) for name, value in selector.match_labels.items()}
    matchers |= {_matcher(requirement) for requirement in selector.match_expressions}
    return tuple(sorted(matchers, key=lambda matcher: (matcher.name, matcher.values, matcher.negated)))


def promql(metric: str, matchers: Iterable[Matcher]) -> str:
    """One PromQL selector. Names outside Prometheus' classic alphabet are quoted, for Prometheus 3."""
    parts = [f"{_label_name(matcher.name)}{_condition(matcher)}" for matcher in matchers]
    if not _CLASSIC_METRIC.fullmatch(metric):
        return f"{{{','.join([quoted(metric), *parts])}}}"
    return f"{metric}{{{','.join(parts)}}}" if parts else metric


def api_selector(selector: LabelSelector | None) -> str:
    """The Kubernetes API's text form, '' for all; equal selectors give equal texts.

    Raises ValueError for what is no label, as the API would: 'a,b=c' would be read as two.
    """
    if selector is None:
        return ""
    parts = {_requirement(key, "=", (value,)) for key, value in selector.match_labels.items()}
    parts |= {_requirement(each.key, each.operator, each.values) for each in selector.match_expressions}
    return ",".join(sorted(parts))


def quoted(text: str) -> str:
    """A string as PromQL and the text format write it."""
    return f'"{text.translate(_ESCAPES)}"'


def _matcher(requirement: LabelSelectorRequirement) -> Matcher:
    values = tuple(sorted(set(requirement.values)))
    match requirement.operator:
        case "In":
            return Matcher(requirement.key, values)
        case "NotIn":
            return Matcher(requirement.key, values, negated=True)
        case "Exists":
            return Matcher(requirement.key, ("",), negated=True)
        case "DoesNotExist":
            return Matcher(requirement.key, ("",))


def _requirement(key: str, operator: str, values: Iterable[str]) -> str:
    if not _LABEL_KEY.fullmatch(key):
        raise ValueError(f"{key!r} cannot be the name of a label")
    if wrong := next((value for value in values if not _LABEL_VALUE.fullmatch(value)), None):
        raise ValueError(f"{wrong!r} cannot be the value of label {key}")
    listed = ",".join(sorted(set(values)))
    match operator:
        case "In":
            return f"{key} in ({listed})"
        case "NotIn":
            return f"{key} notin ({listed})"
        case "Exists":
            return key
        case "DoesNotExist":
            return f"!{key}"
        case _:
            return f"{key}={listed}"


def _label_name(name: str) -> str:
    return name if _CLASSIC_LABEL.fullmatch(name) else quoted(name)


def _condition(matcher: Matcher) -> str:
    if len(matcher.values) == 1:
        return ("!=" if matcher.negated else "=") + quoted(matcher.values[0])
    regex = "|".join(_REGEX_SPECIAL.sub(r"\\\g<0>", value) for value in matcher.values)
    return ("!~" if matcher.negated else "=~") + quoted(regex)
