"""Objects: JSON lines, lists of objects, a Trainer's state, a list for each key."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from typing import Any, TextIO

from ..columns import Chosen, choose, meaning, number
from ..finding import Refused
from ..lines import BLOCK, LONGEST
from ..logs import Log, Rows, finish
from .common import SAMPLE, WANTED, Asked, check_loss, refused


class _Objects:
    """Objects with the same keys or others, taken in one by one."""

    def __init__(self, name: str, kind: str, asked: Asked) -> None:
        self.name, self.kind, self._asked = name, kind, asked
        self._rows, self._sample = Rows(), list[Mapping[str, Any]]()
        self._chosen: Chosen | None = None
        self._known: set[str] = set()
        self._roles: list[tuple[str, tuple[str, ...]]] = []

    def take(self, entry: Mapping[str, Any]) -> None:
        if self._chosen is None:
            self._sample.append(entry)
            if len(self._sample) >= SAMPLE:
                self._choose()
            return
        if not self._known.issuperset(entry):  # a key that comes late, as of an evaluation
            for key in entry.keys() - self._known:
                self._known.add(key)
                found = meaning(key)
                if found is not None and found.role not in self._chosen.names:
                    self._chosen = Chosen({**self._chosen.names, found.role: (key,)})
            self._roles = list(self._chosen.names.items())
        self._add(entry)

    def _choose(self) -> None:
        keys = dict.fromkeys(chain.from_iterable(self._sample))
        usable = [
            key
            for key in keys
            if any(_is_number(entry.get(key)) for entry in self._sample) or key in self._asked
        ]
        try:
            counts = {
                key: sum(1 for entry in self._sample if _is_number(entry.get(key)))
                for key in usable
            }
            chosen = choose(usable, self._asked, counts)
        except LookupError as error:
            raise refused(self.name, error, ", ".join(keys)) from None
        check_loss(self.name, chosen, self.kind, ", ".join(keys) or "no keys")
        self._chosen, self._known = chosen, set(keys)
        self._roles = list(chosen.names.items())
        for entry in self._sample:
            self._add(entry)
        self._sample = []

    def _add(self, entry: Mapping[str, Any]) -> None:
        row = {}
        for role, names in self._roles:
            value = _value(entry, names[0])
            for more in names[1:]:
                value += _value(entry, more)
            row[role] = value
        self._rows.add(row)

    def log(self, *, total: int | None = None, notes: Sequence[str] = ()) -> Log:
        if self._chosen is None:  # by what there is, though more may come
            known = _Objects(self.name, self.kind, self._asked)
            known._sample = self._sample
            known._choose()
            return known.log(total=total, notes=notes)
        return finish(self.name, self.kind, self._chosen, self._rows, total=total, notes=notes)


def _is_number(value: Any) -> bool:
    if isinstance(value, list) and value:
        value = value[0]
    try:
        number(value)
    except (TypeError, ValueError, OverflowError):
        return False
    return not isinstance(value, bool)


def _value(entry: Mapping[str, Any], key: str) -> float:
    value = entry.get(key)
    if type(value) is float:
        return value if math.isfinite(value) else math.inf
    if value is None:
        return math.nan
    if isinstance(value, list):  # a rate for each group
        value = value[0] if value else None
    try:
        return number(value)
    except (TypeError, ValueError, OverflowError):
        return math.nan


def _flat(entry: Mapping[str, Any]) -> Mapping[str, Any]:
    """An object whose objects are taken apart: {"train": {"loss": 1}} has train/loss."""
    if not any(isinstance(value, dict) for value in entry.values()):
        return entry
    flat: dict[str, Any] = {}
    for key, value in entry.items():
        if isinstance(value, dict):
            flat.update({f"{key}/{inner}": one for inner, one in value.items()})
        else:
            flat[key] = value
    return flat


class JsonLines:
    """JSON lines, an object each; lines of other text between them are passed over."""

    def __init__(self, name: str, asked: Asked) -> None:
        self._objects = _Objects(name, "JSON lines", asked)
        self._bad = 0

    def take(self, lines: list[str]) -> None:
        try:
            entries = json.loads(f"[{','.join(lines)}]")
            if len(entries) != len(lines):
                raise ValueError
        except (ValueError, RecursionError):
            entries = [as_object(line) for line in lines]
        for entry in entries:
            if isinstance(entry, dict):
                self._objects.take(_flat(entry))
            else:
                self._bad += 1

    def logs(self, notes: Sequence[str] = ()) -> tuple[Log, ...]:
        if self._bad:
            notes = [*notes, f"{self._bad:,} lines are no JSON objects and were left out"]
        return (self._objects.log(notes=notes),)


def as_object(text: str) -> dict[str, Any] | None:
    """The JSON object that a line is; None: it is none."""
    try:
        entry = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return entry if isinstance(entry, dict) else None


def read_json(name: str, file: TextIO, asked: Asked) -> tuple[Log, ...]:
    """One JSON value: a Trainer's state, a list of objects, or a list for each key."""
    stream = _Stream(file)
    if stream.find('"log_history"'):
        objects = _Objects(name, "a Trainer's state", asked)
        complete = True
        stream.find("[")
        try:
            for entry in stream.objects():
                objects.take(_flat(entry))
        except EOFError:
            complete = False
        rest = stream.before + stream.tail()
        found = re.search(r'"max_steps":\s*(\d+)', rest)
        total = int(found[1]) if found and int(found[1]) > 0 else None
        notes = [] if complete else ["the file ends in the middle: what is there was read"]
        return (objects.log(total=total, notes=notes),)
    stream.rewind()
    first = stream.peek()
    if first == "[":
        objects = _Objects(name, "a list of JSON objects", asked)
        stream.find("[")
        try:
            for entry in stream.objects():
                objects.take(_flat(entry))
        except EOFError:
            return (objects.log(notes=["the file ends in the middle: what is there was read"]),)
        return (objects.log(),)
    return _read_one_object(name, file, asked)


def _read_one_object(name: str, file: TextIO, asked: Asked) -> tuple[Log, ...]:
    """An object with a list for each key, as Keras' history has."""
    file.seek(0)
    try:
        value = json.load(file)
    except (ValueError, RecursionError) as error:
        raise Refused(f"{name}: got no complete JSON ({error}), {WANTED}") from None
    value = value.get("history", value) if isinstance(value, dict) else value
    if not isinstance(value, dict):
        raise Refused(f"{name}: got JSON of another kind, {WANTED}")
    columns = {key: one for key, one in value.items() if isinstance(one, list) and one}
    if not columns:
        raise Refused(
            f"{name}: got one JSON object with {', '.join(list(value)[:12]) or 'nothing'}, "
            "wanted log_history, or a list of numbers for each key"
        )
    objects = _Objects(name, "JSON of a list for each key", asked)
    for i in range(max(map(len, columns.values()))):
        objects.take({key: one[i] for key, one in columns.items() if i < len(one)})
    return (objects.log(),)


NO_SPACE, NO_COMMA = re.compile(r"[^\ufeff \t\r\n]"), re.compile(r"[^ \t\r\n,]")


class _Stream:
    """A long JSON text, of which only a part is held at a time."""

    def __init__(self, file: TextIO) -> None:
        self._file, self._text, self._at = file, "", 0
        self.before = ""
        self._decoder = json.JSONDecoder()

    def rewind(self) -> None:
        self._file.seek(0)
        self._text, self._at, self.before = "", 0, ""

    def _more(self) -> bool:
        text = self._file.read(BLOCK)
        self._text, self._at = self._text[self._at :] + text, 0
        return bool(text)

    def find(self, text: str) -> bool:
        """Move behind the next such text; False where there is none."""
        while True:
            place = self._text.find(text, self._at)
            if place >= 0:
                self.before = (self.before + self._text[self._at : place])[-BLOCK:]
                self._at = place + len(text)
                return True
            keep = max(self._at, len(self._text) - len(text))
            self.before = (self.before + self._text[self._at : keep])[-BLOCK:]
            self._at = keep
            if not self._more():
                return False

    def peek(self) -> str:
        """The next sign that is no space; nothing: the text ends."""
        while True:
            found = NO_SPACE.search(self._text, self._at)
            if found:
                return found[0]
            if not self._more():
                return ""

    def objects(self) -> Iterator[Mapping[str, Any]]:
        """Those of a list, from within it.

        Raises:
            EOFError: the text ends before the list does.
        """
        while True:
            sign = self.peek()
            if sign == "]":
                return
            if not sign:
                raise EOFError
            begin = NO_COMMA.search(self._text, self._at)
            start = begin.start() if begin else len(self._text)
            try:
                value, end = self._decoder.raw_decode(self._text, start)
            except (ValueError, RecursionError):
                if len(self._text) - start > LONGEST or not self._more():
                    raise EOFError from None
                continue
            self._at = end
            if isinstance(value, dict):
                yield value

    def tail(self) -> str:
        """What follows, as far as it is short."""
        return self._text[self._at :] + self._file.read(BLOCK)
