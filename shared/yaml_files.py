"""YAML with line numbers, and mistakes that say where they are: `FILE:LINE: field: what; mend`.

YAML's own traps are left out. Scalars follow the core schema of YAML 1.2, and only where nothing is lost: `true`,
`false`, `null`, and numbers in the very form in which they would be printed; `yes`, `no`, `on`, `09:00`, `010` and
`2026-01-01` are text. Keys are always text. Tags, merge keys and several documents in a file are errors, as are
duplicate keys; aliases may be used while the whole stays within bounds.
"""

from __future__ import annotations

import difflib
import io
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from shared.errors import BadInput

NAME = r"[a-z][a-z0-9_]{0,63}"
"""What may be called by name in a file: intents and slots, zones and cameras."""
MAX_BYTES = 8 << 20
MAX_NODES = 500_000
MAX_DEPTH = 40
Path_ = tuple[str | int, ...]
"""Where a value is in a file: keys and indices from the top."""
_M = TypeVar("_M", bound=BaseModel)
_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_SHOWN_VALUE = 40
_LONGEST_NAME = 100


@dataclass(frozen=True, order=True)
class Mistake:
    """One thing to mend. `line` counts from 1; 0: the file as a whole."""

    file: str
    line: int
    field: str
    what: str

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}" if self.line else self.file
        what = self.what if self.what.endswith("?") else f"{self.what}."
        return f"{place}: {self.field}: {what}" if self.field else f"{place}: {what}"


class Mistakes:
    """Collects, so that everything is said at once."""

    def __init__(self) -> None:
        self.found: list[Mistake] = []

    def add(self, file: str, line: int, field: str, what: str) -> None:
        """Note one; said twice, it counts once."""
        one = Mistake(file, line, field, what.rstrip("."))
        if one not in self.found:
            self.found.append(one)

    def refuse(self) -> None:
        """Raise one `BadInput` with all of them, a line each, in the order of files and lines; none: return."""
        if self.found:
            raise BadInput("\n".join(str(one) for one in sorted(self.found)))


@dataclass
class Document:
    """A file's content and the line of every value in it."""

    file: str
    value: Any
    lines: dict[Path_, int] = field(default_factory=dict)

    def line(self, path: Iterable[str | int]) -> int:
        """The line of a value, or of the nearest thing around it. Parts of `path` that the file lacks are skipped:
        they are languages that a plain string has by default, and names of alternatives."""
        here: Path_ = ()
        for part in path:
            if (*here, part) in self.lines:
                here = (*here, part)
        return self.lines.get(here, 1)

    def shown(self, start: Path_, path: Path_) -> str:
        """`steps[2].ask`: a place below `start`, counted from 1, without the language that a plain string has."""
        kept: Path_ = ()
        for part in path:
            if (*start, *kept, part) in self.lines or isinstance(part, int) or len(part) != 2:
                kept = (*kept, part)
        return dotted(kept)


def dotted(path: Iterable[str | int]) -> str:
    """`steps[2].ask`, counted from 1."""
    text = ""
    for part in path:
        text += f"[{part + 1}]" if isinstance(part, int) else f".{part}" if text else str(part)
    return text


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """`did you mean plan?`, or what there is."""
    names = sorted({one for one in known if len(one) <= _LONGEST_NAME})
    nearest = difflib.get_close_matches(name[:_LONGEST_NAME], names, n=1)
    if nearest:
        return f"did you mean {nearest[0]}?"
    if not names:
        return "there is none"
    more = f" and {len(names) - 12} more" if len(names) > 12 else ""
    return f"there are: {', '.join(names[:12])}{more}"


# --- reading ----------------------------------------------------------------------------------------------------------


class _Refused(Exception):
    """This file cannot be used; said at this line."""

    def __init__(self, line: int, what: str) -> None:
        super().__init__(what)
        self.line = line
        self.what = what


def read(path: Path, shown: str, mistakes: Mistakes) -> Document | None:
    """Read one file; None, and a mistake noted, where it cannot be.

    Args:
        shown: how messages name the file.
    """
    try:
        with path.open("rb") as handle:
            content = handle.read(MAX_BYTES + 1)
    except OSError as error:
        mistakes.add(shown, 0, "", f"cannot be read ({error.strerror or error}); check the path and its permissions")
        return None
    return parse(content, shown, mistakes)


def parse(content: bytes, shown: str, mistakes: Mistakes) -> Document | None:
    """Like `read`, for what was read already."""
    if len(content) > MAX_BYTES:
        mistakes.add(shown, 0, "", f"is larger than {MAX_BYTES >> 20} MiB; split it into several files")
        return None
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        mistakes.add(shown, line, "", "is not UTF-8; save it as UTF-8")
        return None
    document = Document(shown, None)
    try:
        document.value = _Builder(document, mistakes).build(text)
    except _Refused as refused:
        mistakes.add(shown, refused.line, "", refused.what)
        return None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        what = " ".join(str(error.problem or error.context or "").split())
        mistakes.add(shown, mark.line + 1 if mark else 0, "", f"is not YAML here ({what}); check quotes and indents")
        return None
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        place = getattr(error, "position", None)
        line = text.count("\n", 0, place) + 1 if isinstance(place, int) else 0
        what = " ".join(str(getattr(error, "reason", error)).split())
        mistakes.add(shown, line, "", f"is not YAML ({what}); remove what is no text")
        return None
    return document


_INT = re.compile(r"0|-?[1-9][0-9]{0,17}")
_FLOAT = re.compile(r"-?(0|[1-9][0-9]{0,15})\.[0-9]{1,16}")
_WORDS: dict[str, bool | None] = {"true": True, "false": False, "null": None, "~": None, "": None}


def scalar(text: str) -> str | int | float | bool | None:
    """What a plain scalar means. Numbers only where printing them gives the same text, so nothing is ever lost."""
    if text in _WORDS:
        return _WORDS[text]
    if _INT.fullmatch(text):
        return int(text)
    if _FLOAT.fullmatch(text) and repr(float(text)) == text:
        return float(text)
    return text


@dataclass
class _Open:
    """A list or a mapping that is being read."""

    value: Any
    path: Path_
    anchor: str | None
    first_node: int
    keys: dict[str, int] = field(default_factory=dict)
    key: str | None = None


class _Builder:
    """Turns the parser's events into values, without recursion, so that no depth of nesting can break it."""

    def __init__(self, document: Document, mistakes: Mistakes) -> None:
        self._document = document
        self._mistakes = mistakes
        self._stack: list[_Open] = []
        self._anchors: dict[str, tuple[Any, int]] = {}
        self._nodes = 0
        self._top: Any = None

    def build(self, text: str) -> Any:
        documents = 0
        for event in yaml.parse(io.StringIO(text), Loader=_LOADER):
            line = event.start_mark.line + 1
            if isinstance(event, yaml.DocumentStartEvent):
                documents += 1
                if documents > 1:
                    raise _Refused(line, "holds several documents; remove the line `---`")
            elif isinstance(event, yaml.AliasEvent):
                self._alias(event, line)
            elif isinstance(event, yaml.ScalarEvent):
                self._scalar(event, line)
            elif isinstance(event, yaml.CollectionStartEvent):
                self._begin(event, line)
            elif isinstance(event, yaml.CollectionEndEvent):
                self._finish()
        return self._top

    def _count(self, line: int, nodes: int = 1) -> None:
        self._nodes += nodes
        if self._nodes > MAX_NODES:
            raise _Refused(
                line, f"holds more than {MAX_NODES} values, aliases counted out; split it into several files"
            )

    def _place(self) -> Path_:
        if not self._stack:
            return ()
        around = self._stack[-1]
        part = around.key if isinstance(around.value, dict) else len(around.value)
        return (*around.path, part if part is not None else "")

    def _refuse_tag(self, tag: str | None, line: int) -> None:
        if tag not in (None, "!", "tag:yaml.org,2002:str"):
            raise _Refused(line, f"has the tag {str(tag)[:60]}, and tags are not used here; remove it")

    def _begin(self, event: Any, line: int) -> None:
        self._refuse_tag(event.tag, line)
        self._count(line)
        if len(self._stack) >= MAX_DEPTH:
            raise _Refused(line, f"is nested deeper than {MAX_DEPTH} levels; flatten it")
        if self._expects_key():
            raise _Refused(line, "has a list or a mapping as a key; write a plain word")
        path = self._place()
        self._document.lines.setdefault(path, line)
        value: Any = {} if isinstance(event, yaml.MappingStartEvent) else []
        self._stack.append(_Open(value, path, event.anchor, self._nodes))

    def _finish(self) -> None:
        done = self._stack.pop()
        if done.anchor is not None:
            self._anchors[done.anchor] = (done.value, self._nodes - done.first_node + 1)
        self._put(done.value)

    def _alias(self, event: Any, line: int) -> None:
        if event.anchor not in self._anchors:
            raise _Refused(
                line, f"uses the alias *{event.anchor[:40]} before it is anchored; write quotes round a plain *"
            )
        value, nodes = self._anchors[event.anchor]
        self._count(line, nodes)
        if self._expects_key():
            raise _Refused(line, "has an alias as a key; write a plain word")
        self._document.lines.setdefault(self._place(), line)
        self._put(value)

    def _scalar(self, event: Any, line: int) -> None:
        self._refuse_tag(event.tag, line)
        self._count(line)
        if self._expects_key():
            self._key(event.value, line)
            return
        plain = event.implicit[0] and event.style in (None, "") and event.tag is None
        value = scalar(event.value) if plain else event.value
        if event.anchor is not None:
            self._anchors[event.anchor] = (value, 1)
        self._document.lines[self._place()] = line
        self._put(value)

    def _expects_key(self) -> bool:
        return bool(self._stack) and isinstance(self._stack[-1].value, dict) and self._stack[-1].key is None

    def _key(self, key: str, line: int) -> None:
        around = self._stack[-1]
        if key in around.keys:
            first = around.keys[key]
            what = f"is given twice, first in line {first}; keep one"
            self._mistakes.add(self._document.file, line, key[:_SHOWN_VALUE], what)
        around.keys.setdefault(key, line)
        around.key = key
        self._document.lines[(*around.path, key)] = line

    def _put(self, value: Any) -> None:
        if not self._stack:
            self._top = value
            return
        around = self._stack[-1]
        if isinstance(around.value, list):
            around.value.append(value)
        else:
            assert around.key is not None
            around.value[around.key] = value
            around.key = None


# --- checking against a model -----------------------------------------------------------------------------------------


def validate(
    model: type[_M], document: Document, path: Path_, mistakes: Mistakes, context: Mapping[str, Any] | None = None
) -> _M | None:
    """The value at `path` as this model; None, and every mistake noted, where it does not fit."""
    value = document.value
    for part in path:
        value = value[part]
    try:
        return model.model_validate(value, context=dict(context or {}))
    except ValidationError as error:
        for one in error.errors(include_url=False):
            where = tuple(part for part in one["loc"] if not str(part).startswith("step:"))
            unknown = one["type"] == "extra_forbidden"
            line = document.line((*path, *where))
            mistakes.add(document.file, line, document.shown(path, where), _sentence(one, model if unknown else None))
        return None


def _sentence(error: ErrorDetails, model: type[BaseModel] | None) -> str:
    kind = error["type"]
    if kind == "extra_forbidden":
        known = _known_keys(model, error["loc"]) if model else ()
        return f"is not known here; {did_you_mean(str(error['loc'][-1]), known)}"
    if kind == "missing":
        return "is missing; add it"
    if kind == "value_error":
        return str(error.get("ctx", {}).get("error", error["msg"]))
    if kind == "step":
        return error["msg"]
    return _of_type(kind, error)


_KINDS = {
    "string_type": "must be text; put it in quotes",
    "string_too_short": "is empty; write something",
    "list_type": "must be a list, each item on a line that begins with `-`",
    "dict_type": "must hold keys and values",
    "model_type": "must hold keys and values",
    "model_attributes_type": "must hold keys and values",
    "bool_type": "must be true or false",
    "bool_parsing": "must be true or false",
    "int_type": "must be a whole number",
    "int_parsing": "must be a whole number",
    "int_from_float": "must be a whole number",
    "float_type": "must be a number",
    "float_parsing": "must be a number",
    "finite_number": "must be a finite number",
    "recursion_loop": "contains itself; remove the alias",
}


_PATTERNS = {
    rf"^{NAME}$": "must be made of a-z, 0-9 and _, and begin with a letter",
    r"^[a-z0-9][a-z0-9-]{0,62}$": "must be made of a-z, 0-9 and -",
    r"^[a-z]{2}$": "must be a language in two letters, such as ko or en",
}


def _of_type(kind: str, error: ErrorDetails) -> str:
    given = error.get("input")
    shown = f" (it is {str(given)[:_SHOWN_VALUE]!r})" if isinstance(given, str | int | float) else ""
    context = error.get("ctx", {})
    if kind in _KINDS:
        return _KINDS[kind] + shown
    if kind == "literal_error":
        allowed = re.findall(r"'([^']*)'", str(context.get("expected", "")))
        if allowed and isinstance(given, str):
            return f"cannot be {given[:_SHOWN_VALUE]!r}; {did_you_mean(given, allowed)}"
        return f"must be {context.get('expected', 'one of the known values')}{shown}"
    if kind == "string_pattern_mismatch":
        pattern = str(context.get("pattern"))
        return f"{_PATTERNS.get(pattern, f'must match {pattern}')}{shown}"
    message = error["msg"].removeprefix("Input should be ").removeprefix("Value error, ")
    return f"must be {message}{shown}" if error["msg"].startswith("Input should be ") else f"{error['msg']}{shown}"


def _known_keys(model: type[BaseModel], loc: tuple[str | int, ...]) -> list[str]:
    """The keys of the section in which an unknown key stands."""
    here: Any = model
    for part in loc[:-1]:
        if isinstance(here, type) and issubclass(here, BaseModel) and isinstance(part, str):
            fields = {(info.alias or name): info.annotation for name, info in here.model_fields.items()}
            here = fields.get(part, here)
        here = _model_within(here, part)
    if isinstance(here, type) and issubclass(here, BaseModel):
        return [info.alias or name for name, info in here.model_fields.items()]
    return []


def _model_within(annotation: Any, part: str | int) -> Any:
    """The model that an annotation such as `list[Button]`, `Check | None` or the union of steps leads to."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    inner = [one for one in _arguments(annotation) if isinstance(one, type) and issubclass(one, BaseModel)]
    if isinstance(part, str) and part.startswith("step:"):
        key = part.removeprefix("step:")
        inner = [one for one in inner if key in {info.alias or name for name, info in one.model_fields.items()}]
    return inner[0] if len(inner) == 1 else annotation


def _arguments(annotation: Any) -> list[Any]:
    """Everything named in an annotation."""
    found: list[Any] = []
    for one in getattr(annotation, "__args__", ()):
        found += [one, *_arguments(one)]
    return found
