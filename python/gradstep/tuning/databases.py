"""A search's trials in a database, which machines share that have no file system in common."""

from __future__ import annotations

import contextlib
import random
import re
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import unquote

from ..extras import need
from . import sharing

ATTEMPTS = 10  # at making tables that other processes make at the same time
PATIENCE = 60.0  # seconds to wait for SQLite while others write


def is_url(storage: object) -> bool:
    """Whether a database is meant, rather than a file."""
    return isinstance(storage, str) and "://" in storage


def shown(url: str) -> str:
    """A URL as errors quote it: without its password."""
    return _hidden(url, url)


def _hidden(text: str, url: str) -> str:
    """A text in one line without the password of a URL; drivers quote what they cannot read."""
    found = re.match(r"[^:]*://[^/:@]*:(.+)@", url)
    secrets = [found[1]] if found else []
    secrets += re.findall(r"(?i)[?&][^=&]*(?:password|passwd|pwd)=([^&]+)", url)
    for secret in [*secrets, *map(unquote, secrets)]:
        text = text.replace(secret, "***")
    return " ".join(text.split())


def _sqlalchemy(module: str) -> Any:
    """A module of SQLAlchemy, which Optuna brings."""
    return need(f"sqlalchemy.{module}", "a search in a database", "search")


def check_url(url: str) -> str:
    """A URL that names a database, which may not be there.

    Raises:
        ValueError: it names none, or one that threads do not share.
    """
    try:
        parsed = _sqlalchemy("engine").make_url(url)
        backend = parsed.get_backend_name()
        parsed.get_dialect()
    except ImportError:  # the driver's: it is missed when it is used
        return url
    except Exception:  # it may quote the password, or a part of it
        raise ValueError(
            f"storage: got {shown(url)!r}, wanted a path, or the URL of a database such as "
            "sqlite:///search.db or postgresql://user:password@host/name"
        ) from None
    if backend == "sqlite" and parsed.database in (None, "", ":memory:"):
        raise ValueError(
            f"storage: got {url!r}, a database in memory, wanted one in a file: several threads "
            "use it"
        )
    return url


@contextlib.contextmanager
def database(url: str) -> Iterator[Any]:
    """Optuna's storage in a database, its tables made where missing; closed at the end.

    Raises:
        ImportError: the driver is not installed.
        OSError: it cannot be read or written.
        ValueError: it has tables of another version of Optuna.
    """
    storage = _opened(url)
    try:
        yield storage
    finally:
        storage.remove_session()
        storage.engine.dispose()


def _opened(url: str) -> Any:
    """The storage; another attempt where others make the tables at the same time."""
    errors = _sqlalchemy("exc")
    left, kind = ATTEMPTS, Exception
    while True:
        try:
            return _connected(url)
        except ImportError as error:
            kind, text = ImportError, f"whose driver cannot be imported: {error.__cause__ or error}"
        except errors.DBAPIError as error:
            left -= 1
            is_race = isinstance(error, (errors.IntegrityError, errors.ProgrammingError))
            is_race = is_race or "already exists" in str(error.orig)
            if left and is_race:
                time.sleep(0.2 * random.random())
                continue
            kind, text = OSError, f"which cannot be read or written: {error.orig}"
        except RuntimeError as error:  # of tables
            kind, text = ValueError, f"which cannot be used: {error}"
        raise kind(f"storage: got {shown(url)!r}, {_hidden(text, url)}") from None


def _connected(url: str) -> Any:
    is_sqlite = url.startswith("sqlite")
    options: dict[str, Any] = {"pool_pre_ping": True}
    if is_sqlite:  # without a pool no connection to a file outlives its use, whatever fails
        options = {"poolclass": _sqlalchemy("pool").NullPool, "connect_args": {"timeout": PATIENCE}}
    storage = sharing.optuna("storages").RDBStorage(
        url.replace("{", "{{").replace("}", "}}"), engine_kwargs=options
    )
    if is_sqlite:
        # Optuna reads a trial, then changes it. Servers lock it in between, SQLite does not, and
        # would give it to two processes: each transaction has the whole file instead.
        _sqlalchemy("event").listen(
            storage.engine, "begin", lambda to: to.exec_driver_sql("BEGIN IMMEDIATE")
        )
    return storage
