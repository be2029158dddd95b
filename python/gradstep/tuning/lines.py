"""Lines of a text, as far as it goes, and on from there once it has grown."""

from __future__ import annotations

import codecs
import os
import re
from collections.abc import Iterator
from pathlib import Path

BLOCK = 1 << 20  # bytes read at once
LONGEST = 1 << 20  # characters of a line
KNOWN = 64  # bytes that are looked at again
COLOURS = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")


class Lines:
    """The lines of a file, many at once; asked again, those that were appended since.

    A carriage return ends a line, too: tqdm writes one after the other over the same. A line that
    is too long for a log is cut.

    Attributes:
        before: how many lines were given before those that are given now.
        rest: the last line, which has no end yet.
    """

    def __init__(self, path: Path, encoding: str = "utf-8-sig", block: int = BLOCK) -> None:
        self._file = path.open("rb", buffering=0)
        self._path, self._block = path, block
        self._decoder = codecs.getincrementaldecoder(encoding)("replace")
        self._last = b""
        self._is_returned = False  # the last line was ended, perhaps by half of "\r\n"
        self.before, self.rest = 0, ""

    def close(self) -> None:
        self._file.close()

    def __iter__(self) -> Iterator[list[str]]:
        while data := self._file.read(self._block):
            self._last = (self._last + data)[-KNOWN:]
            lines = self._split(self._decoder.decode(data))
            yield lines
            self.before += len(lines)

    def _split(self, text: str) -> list[str]:
        if self._is_returned and text:
            text = text.removeprefix("\n")
        if text:
            self._is_returned = text.endswith("\r")
        text = self.rest + text
        if "\r" in text:
            text = text.replace("\r\n", "\n").replace("\r", "\n")
        if "\x1b" in text:
            text = COLOURS.sub("", text)
        lines = text.split("\n")
        self.rest = lines.pop()[:LONGEST]
        return lines

    def take_rest(self) -> str:
        """The last line, for one who finds that only its end is missing, which is given later."""
        rest, self.rest = self.rest, ""
        return rest

    def goes_on(self) -> bool:
        """Whether what was read still stands there, so that what follows was appended.

        Raises:
            OSError: the file is not there.
        """
        here, there = os.fstat(self._file.fileno()), self._path.stat()
        if not os.path.samestat(here, there) or there.st_size < self._file.tell():
            return False
        self._file.seek(-len(self._last), os.SEEK_CUR)
        return self._file.read(len(self._last)) == self._last
