"""Pure: from decoded YAML or JSON to typed values, or to everything that is wrong with it, in words users understand.

Invariants: nothing here raises on bad input; all problems are given at once; a problem names its field and never
repeats a value that could be a secret. An explicit null means absent, as Go clients write it. Unknown fields are no
error, but each is named in a warning.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from typing import Annotated, Any, ClassVar, Generic, TypeVar

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    StrictBool,
    StringConstraints,
    ValidationError,
    ValidationInfo,
    model_validator,
)
from pydantic.alias_generators import to_camel
from pydantic_core import ErrorDetails

T = TypeVar("T")
Model = TypeVar("Model", bound=BaseModel)

Handler = Callable[[object], Any]
"""The rest of a validation."""

Bool = StrictBool
Int = Annotated[int, Field(strict=True)]
Text = Annotated[str, StringConstraints(strict=True, min_length=1)]
Seconds = Annotated[float, Field(strict=True, ge=0, le=86_400)]
Port = Annotated[int, Field(strict=True, ge=1, le=65_535)]


@dataclass(frozen=True, slots=True, order=True)
class Problem:
    """What is wrong with a field, named as the user wrote it: 'spec.offloadingConfig.metrics[0].type'; '': all."""

    field: str
    reason: str

    def __str__(self) -> str:
        return f"{self.field}: {self.reason}" if self.field else self.reason


@dataclass(frozen=True, slots=True)
class Parsed(Generic[T]):
    """A good object. `warnings` do not keep it from being used."""

    model: T
    warnings: tuple[Problem, ...] = ()


@dataclass(frozen=True, slots=True)
class Invalid:
    """An object that cannot be used, and every reason why."""

    problems: tuple[Problem, ...]


_NOT_KEPT: set[str] = set()

_MADE_MAX = 4_096
_made: dict[tuple[type[BaseModel], str], BaseModel] = {}
"""Values of `SharedModel` by how they were written, all without unknown fields."""


@dataclass(slots=True)
class _Reading:
    """What is learnt about an object while it is validated. Where `snake_case` is accepted too, nothing is."""

    meets_unknown: bool = False


class ApiModel(BaseModel):
    """A frozen value with snake_case attributes, written in camelCase. Unknown fields are dropped."""

    model_config = ConfigDict(
        frozen=True,
        alias_generator=to_camel,
        validate_by_name=True,
        validate_by_alias=True,
        extra="ignore",
        hide_input_in_errors=True,
        allow_inf_nan=False,
    )
    unread: ClassVar[frozenset[str]] = frozenset()
    """Fields that are known and not needed here."""

    def model_post_init(self, context: Any, /) -> None:
        """Forgets which fields were given: nobody asks, and the sets are half of the memory of all models."""
        object.__setattr__(self, "__pydantic_fields_set__", _NOT_KEPT)

    @model_validator(mode="before")
    @classmethod
    def _null_is_absent(cls, data: object, info: ValidationInfo[_Reading | None]) -> object:
        if not isinstance(data, dict):
            return data
        if info.context and not data.keys() <= _written(cls):
            info.context.meets_unknown = True
        if None not in data.values():
            return data
        return {key: value for key, value in data.items() if value is not None}


class SharedModel(ApiModel):
    """A part that many objects have in common: those that were written alike are one value, made once."""

    @model_validator(mode="wrap")
    @classmethod
    def _made_once(cls, data: object, handler: Handler, info: ValidationInfo[_Reading | None]) -> Any:
        if not info.context or not isinstance(data, dict):
            return handler(data)
        written = cls, repr(data)
        if (known := _made.get(written)) is None:
            known = handler(data)
            if not info.context.meets_unknown:
                if len(_made) >= _MADE_MAX:
                    _made.clear()
                _made[written] = known
        return known


def parse_as(model: type[Model], obj: object, *, by_name: bool = False) -> Parsed[Model] | Invalid:
    """Reads `obj` as a `model`, warning of each unknown field. `by_name`: snake_case is accepted beside camelCase."""
    reading = None if by_name else _Reading()
    try:
        parsed = model.model_validate(obj, by_alias=True, by_name=by_name, context=reading)
    except ValidationError as error:
        return Invalid(problems_of(error))
    if reading and not reading.meets_unknown:
        return Parsed(parsed)
    return Parsed(parsed, tuple(unknown_fields(parsed, obj, by_name=by_name)))


def problems_of(error: ValidationError) -> tuple[Problem, ...]:
    """Pydantic's errors in plain words."""
    details = error.errors(include_url=False)
    return tuple(dict.fromkeys(Problem(_path(detail["loc"]), _reason(detail)) for detail in details))


def unknown_fields(model: BaseModel, raw: object, at: str = "", *, by_name: bool = False) -> Iterator[Problem]:
    """A warning, with a guess what was meant, for each field of `raw` that has no meaning; `model` was read from it."""
    if not isinstance(raw, Mapping):
        return
    names, unread = _known(type(model), by_name)
    for key, value in raw.items():
        if key in names and type(value) in _WITHOUT_FIELDS:
            continue
        path = f"{at}.{key}" if at else str(key)
        if key in names:
            yield from _unknown_below(getattr(model, names[key]), value, path, by_name=by_name)
        elif key not in unread:
            close = get_close_matches(str(key), [*names, *unread], n=1)
            yield Problem(path, "unknown field, ignored" + (f"; did you mean {close[0]}?" if close else ""))


_WITHOUT_FIELDS = frozenset({str, int, float, bool, type(None)})


@cache
def _known(model: type[BaseModel], by_name: bool) -> tuple[Mapping[str, str], frozenset[str]]:
    """Each field as it may be written -> its attribute; and the fields that are known and not needed."""
    names = {field.alias or name: name for name, field in model.model_fields.items()}
    if by_name:
        names |= {name: name for name in names.values()}
    return names, model.unread if issubclass(model, ApiModel) else frozenset()


@cache
def _written(model: type[BaseModel]) -> frozenset[str]:
    """All fields that have a meaning, as they are written."""
    names, unread = _known(model, by_name=False)
    return unread | names.keys()


def _unknown_below(value: object, raw: object, path: str, *, by_name: bool) -> Iterator[Problem]:
    if isinstance(value, BaseModel):
        yield from unknown_fields(value, raw, path, by_name=by_name)
    elif isinstance(value, tuple) and isinstance(raw, list | tuple):
        for index, (item, raw_item) in enumerate(zip(value, raw, strict=False)):
            yield from _unknown_below(item, raw_item, f"{path}[{index}]", by_name=by_name)


def _path(location: tuple[int | str, ...]) -> str:
    path = ""
    for part in location:
        if isinstance(part, int):
            path += f"[{part}]"
        elif part != "[key]":
            path += f".{part}" if path else part
    return path


_EXPECTED = {
    "bool": "true or false",
    "dict": "a mapping of names to values",
    "float": "a number",
    "int": "a whole number",
    "list": "a list",
    "mapping": "a mapping of names to values",
    "model": "a mapping of names to values",
    "string": "text (a number needs quotes to be text)",
    "tuple": "a list",
}


def _reason(detail: ErrorDetails) -> str:
    """One error in plain words. Values are repeated only where they are numbers or one of a few words."""
    kind, context, value = detail["type"], detail.get("ctx", {}), detail["input"]
    match kind:
        case "missing":
            return "is required"
        case "value_error":
            return str(context["error"])
        case "enum" | "literal_error":
            given = f", not {value!r}" if isinstance(value, str) and len(value) <= 40 else f", not {_described(value)}"
            return f"must be {context['expected']}{given}"
        case "greater_than_equal":
            return f"must be at least {context['ge']:.10g}, not {value!r}"
        case "less_than_equal":
            return f"must be at most {context['le']:.10g}, not {value!r}"
        case "greater_than":
            return f"must be above {context['gt']:.10g}, not {value!r}"
        case "string_too_short" | "too_short":
            return "must not be empty"
        case "finite_number":
            return "must be a finite number"
        case _:
            pass
    expected = _EXPECTED.get(kind.split("_")[0])
    return f"must be {expected}, not {_described(value)}" if expected else detail["msg"].lower()


def _described(value: Any) -> str:
    match value:
        case bool():
            return str(value).lower()
        case int() | float():
            return "a number"
        case str():
            return "text"
        case Mapping():
            return "a mapping"
        case list() | tuple():
            return "a list"
        case None:
            return "null"
        case _:
            return f"a {type(value).__name__}"
