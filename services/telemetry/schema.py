"""A segment: one SQLite file with the spans and log lines of a while. Nothing in it is ever deleted or changed.

Ids stand for what comes again (traces, orders, who said it), so that all indexes but those of `traces` and `orders`
grow at their ends, which costs a tenth of writing anywhere.
"""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

VERSION = 1
"""Of this schema: a segment of another one is put aside."""

TABLES = f"""
create table segment (begun_s real not null);

create table traces (id integer primary key, trace_id blob not null unique);
create table orders (id integer primary key, name text not null unique);
-- Which traces an order was in: a span or a line of them names it.
create table orders_traces (
  "order" integer not null, trace integer not null, primary key ("order", trace)) without rowid;

-- What spans are called, and who made them.
create table operations (id integer primary key, service text not null, name text not null, unique (service, name));
create table instances (id integer primary key, name text not null unique);
-- `data` is the span as it came, in OTLP's words; the columns are what is asked for.
create table spans (
  id integer primary key, trace integer not null, operation integer not null, instance integer not null,
  start_ns integer not null, duration_ns integer not null, error integer not null, data blob not null);
create index spans_by_trace on spans (trace);
create index spans_by_operation on spans (operation, start_ns);

-- Who says something, and how severe it is.
create table voices (
  id integer primary key, service text not null, instance text not null, level integer not null,
  unique (service, instance, level));
create table lines (
  id integer primary key, time_ns integer not null, voice integer not null, message text not null,
  trace integer, span_id blob, "order" integer, fields blob not null);
create index lines_by_voice on lines (voice, time_ns);
create index lines_by_trace on lines (trace) where trace is not null;
create index lines_by_order on lines ("order") where "order" is not null;
create virtual table words using fts5 (said, content='', columnsize=0, tokenize='unicode61');

-- How far the log files were read.
create table marks (part text primary key, file integer not null, byte integer not null) without rowid;
pragma user_version = {VERSION};
"""


class OtherSchema(Exception):
    """A segment that another version wrote."""


def create(path: Path, begun_s: float) -> sqlite3.Connection:
    """A new segment, for its writer. Raises sqlite3.Error."""
    database = _opened(path, "rwc")
    with closed_on_error(database):
        database.executescript(f"pragma journal_mode = wal; begin; {TABLES}")
        database.execute("insert into segment values (?)", (begun_s,))
        database.execute("commit")
    return database


def open_to_write(path: Path) -> sqlite3.Connection:
    """For the one writer. Raises sqlite3.Error, OtherSchema."""
    database = _opened(path, "rw")
    with closed_on_error(database):
        (version,) = database.execute("pragma user_version").fetchone()
        if version != VERSION:
            raise OtherSchema(f"schema {version} instead of {VERSION}")
    return database


def open_to_read(path: Path) -> sqlite3.Connection:
    """For any thread, one at a time. Raises sqlite3.Error, OtherSchema."""
    database = open_to_write(path)
    database.executescript("pragma query_only = on; pragma cache_size = -256")
    return database


@contextmanager
def closed_on_error(database: sqlite3.Connection) -> Iterator[None]:
    """A connection that nobody gets is closed."""
    try:
        yield
    except BaseException:
        database.close()
        raise


def _opened(path: Path, mode: str) -> sqlite3.Connection:
    where = f"{path.absolute().as_uri()}?mode={mode}"
    database = sqlite3.connect(where, uri=True, isolation_level=None, check_same_thread=False, timeout=2.0)
    with closed_on_error(database):
        # Written to the disk at checkpoints: a process that is killed loses nothing that was committed, a machine may.
        database.executescript("""
            pragma synchronous = normal; pragma cache_size = -1024; pragma journal_size_limit = 4194304;
            pragma temp_store = memory;
        """)
    return database
