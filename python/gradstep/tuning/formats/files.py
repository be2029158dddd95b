"""Which of the formats a file has, found out from its content; and folders of files."""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, TextIO

from ..finding import Refused
from ..lines import Lines
from ..logs import Log
from ..piping import Pipe, is_pipe
from .common import UNFINISHED, WANTED, Asked, Reader, of_series
from .objects import JsonLines, as_object, read_json
from .tables import delimiter_of, read_csv, read_frame
from .text import read_text
from .trackers import MLFLOW, is_events, read_events, read_mlflow

MOST_FILES = 10_000  # of a folder
NO_LOGS = {".py", ".pyc", ".ipynb", ".md", ".rst", ".html", ".yaml", ".yml", ".toml", ".sh"}
BYTES_OF_HEAD = 1 << 16


def read_logs(
    source: Any,
    *,
    loss: str | None = None,
    lr: str | None = None,
    step: str | None = None,
    grad_norm: str | None = None,
) -> tuple[Log, ...]:
    """The runs of a log, whatever tool wrote it.

    Read are: JSON lines; a Trainer's ``trainer_state.json``; the CSV files of Lightning, Keras,
    Ultralytics, and the exports of TensorBoard, W&B and MLflow; TensorBoard's event files (with the
    extra "logs"); MLflow's metric files; text with a loss in its lines, as a print loop, `logging`
    and tqdm write it; and folders of these.

    Args:
        source: a path, that of a pipe, too, which is read to its end; or a frame of pandas or
            polars.
        loss, lr, step, grad_norm: names of columns or keys, where those that tools use do not find
            the right ones.

    Returns:
        A :class:`Log` for each run.

    Raises:
        gradstep.tuning.finding.Refused: nothing can be read there; it says what was looked for and
            what was found.
        OSError: a file cannot be read.

    Example:
        >>> import tempfile, pathlib
        >>> from gradstep.tuning import read_logs
        >>> file = pathlib.Path(tempfile.mkdtemp()) / "run.log"
        >>> lines = [f"step {k}: loss {9 / k:.3f}, lr 0.1" for k in (1, 2, 3)]
        >>> _ = file.write_text("\\n".join([*lines, ""]))
        >>> [log] = read_logs(file)
        >>> log.losses.tolist(), log.rates.tolist()
        ([9.0, 4.5, 3.0], [0.1, 0.1, 0.1])
    """
    given = {"loss": loss, "lr": lr, "step": step, "grad_norm": grad_norm}
    asked = {role: name for role, name in given.items() if name is not None}
    if hasattr(source, "columns") and hasattr(source, "__getitem__"):
        return read_frame(source, asked)
    if not isinstance(source, str | os.PathLike):
        raise TypeError(
            f"source: got {type(source).__name__}, wanted a path, or a frame of pandas or polars"
        )
    path = Path(source)
    if is_pipe(path):
        with Pipe(path) as pipe:
            pipe.wait_for_all()
            return read_path(pipe.file, asked, str(path))
    return read_path(path, asked)


def read_path(path: Path, asked: Asked, name: str | None = None) -> tuple[Log, ...]:
    """The runs in a file or a folder, of that name."""
    if path.is_dir():
        return read_folder(path, asked)
    return read_file(path, asked, name)


def read_file(path: Path, asked: Asked, name: str | None = None) -> tuple[Log, ...]:
    """The runs in a file."""
    name = name or str(path)
    with path.open("rb") as file:
        head = file.read(BYTES_OF_HEAD)
    if not head.strip():
        raise Refused(f"{name}: got an empty file, {WANTED}")
    if is_events(head):
        if "tfevents" not in path.name:
            raise Refused(
                f"{name}: got TensorBoard's events, but not in a file with tfevents in its name, "
                "wanted the path of that or of its folder"
            )
        return (read_events(path.parent if _is_alone(path) else path, asked, name),)
    reader, encoding = _reader(name, path, head, asked)
    if isinstance(reader, _Whole):
        with path.open(encoding=encoding, errors="replace", newline="") as text:
            return reader.read(name, text, asked)
    with closing(Lines(path, encoding)) as lines:
        return _read_on(lines, reader)


class _Whole(NamedTuple):
    """What is one value from the begin of a file to its end, or small."""

    read: Callable[[str, TextIO, Asked], tuple[Log, ...]]


class Growing:
    """A file with lines, read as far as it goes, and on from there once it has grown.

    Attributes:
        lines: where they come from.
    """

    def __init__(self, reader: Reader, lines: Lines) -> None:
        self._reader, self.lines = reader, lines

    @classmethod
    def of(cls, path: Path, asked: Asked, name: str) -> Growing | None:
        """Such a file; None: it is too short yet to tell, or nothing that lines are appended to.

        Raises:
            OSError: it cannot be read.
        """
        with path.open("rb") as file:
            head = file.read(BYTES_OF_HEAD)
        if len(head) < BYTES_OF_HEAD or is_events(head):
            return None
        reader, encoding = _reader(name, path, head, asked)
        return None if isinstance(reader, _Whole) else cls(reader, Lines(path, encoding))

    def read(self) -> tuple[Log, ...]:
        """The runs as far as they are there now.

        Raises:
            Refused: as of :func:`read_logs`.
        """
        return _read_on(self.lines, self._reader)


def _read_on(lines: Lines, reader: Reader) -> tuple[Log, ...]:
    """The runs of a reader once it has taken in what lines there are."""
    for some in lines:
        reader.take([line for line in some if line and not line.isspace()])
    if lines.rest.startswith("{") and as_object(lines.rest) is not None:
        reader.take([lines.take_rest()])
    return reader.logs([UNFINISHED] if lines.rest.strip() else [])


def _is_alone(path: Path) -> bool:
    """Whether an event file is one of several of a run, which TensorBoard reads by their folder."""
    return sum(1 for _ in path.parent.glob("*tfevents*")) > 1


def _reader(name: str, path: Path, head: bytes, asked: Asked) -> tuple[Reader | _Whole, str]:
    """What reads a file that begins so, and its encoding."""
    encoding = "utf-8-sig"
    if head[:2] in (b"\xff\xfe", b"\xfe\xff"):  # as PowerShell's > writes it
        encoding = "utf-16"
    elif b"\0" in head:
        raise Refused(f"{name}: got a binary file, {WANTED}")
    text = head.decode(encoding, "replace").lstrip("\ufeff \t\r\n")
    if text.startswith(("{", "[")):
        first = text.split("\n", 1)[0].strip()
        if as_object(first) is not None and len(text.splitlines()) > 1:
            return JsonLines(name, asked), encoding
        if re.match(r'\{\s*"|\[\s*\{', text):
            return _Whole(read_json), encoding
    lines = [line for line in text.splitlines()[:20] if line.strip()]
    if path.parent.name == "metrics" and all(re.fullmatch(r"\d+ \S+ \d+", x) for x in lines):
        return _Whole(read_mlflow), encoding
    return (read_csv if delimiter_of(lines) else read_text)(name, asked), encoding


def read_folder(path: Path, asked: Asked) -> tuple[Log, ...]:
    """The runs of all files below a folder that are logs, by their paths in it."""
    files = [
        file for file in islice(sorted(path.rglob("*")), MOST_FILES) if _is_visible(file, path)
    ]
    found: list[Log] = []
    refused: list[str] = []
    for file in _newest_states(_one_of_events(files)):
        own = file.parent if "tfevents" in file.name else file
        run = str(own.relative_to(path)) if own != path else path.name
        try:
            found += read_file(file, asked, run)
        except (Refused, OSError) as error:
            refused.append(str(error))
    if not found:
        seen = ", ".join(str(file.relative_to(path)) for file in files[:5]) or "no file"
        why = f" (the first: {refused[0]})" if refused else ""
        raise Refused(f"{path}: got no log among its files, {seen}{why}, {WANTED}")
    return tuple(_with_metrics(found))


def _is_visible(file: Path, below: Path) -> bool:
    if file.suffix in NO_LOGS:
        return False
    hidden = any(part.startswith(".") for part in file.relative_to(below).parts)
    return file.is_file() and not hidden


def _one_of_events(files: Sequence[Path]) -> Iterator[Path]:
    """All files, but of TensorBoard's one for each folder."""
    folders: set[Path] = set()
    for file in files:
        if "tfevents" in file.name:
            if file.parent in folders:
                continue
            folders.add(file.parent)
        yield file


def _newest_states(files: Iterator[Path]) -> list[Path]:
    """All files, but of a Trainer's checkpoints the last state, which holds all before."""
    kept: list[Path] = []
    newest: dict[Path, tuple[int, Path]] = {}
    for file in files:
        checkpoint = re.fullmatch(r"checkpoint-(\d+)", file.parent.name)
        if file.name == "trainer_state.json" and checkpoint:
            folder, step = file.parent.parent, int(checkpoint[1])
            if (folder / file.name).exists():  # the finished run's own
                continue
            newest[folder] = max(newest.get(folder, (-1, file)), (step, file))
        else:
            kept.append(file)
    return sorted([*kept, *(file for _, file in newest.values())])


def _with_metrics(logs: Sequence[Log]) -> Iterator[Log]:
    """MLflow has a file for each metric: a run's own beside each other become one log."""
    runs: dict[str, list[Log]] = defaultdict(list)
    for log in logs:
        if log.kind == MLFLOW:
            runs[log.name.rpartition("metrics")[0]].append(log)
        else:
            yield log
    for run, metrics in runs.items():
        series = {log.columns["loss"]: (log.steps, log.losses) for log in metrics}
        yield from of_series(run.rstrip("/\\") or "run", MLFLOW, series, {})
