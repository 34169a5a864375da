"""What the store keeps, finds again, and lets go."""

import errno
import sqlite3
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, ArrayValue, KeyValue, KeyValueList
from opentelemetry.proto.trace.v1 import trace_pb2

from services.log_files import Line
from services.telemetry import finding, reading, schema, store
from services.telemetry.intake import Intake
from services.telemetry.model import MOST_SPANS, Dependency, LineQuery, SpanEvent, SpanLink, TooLong, TraceQuery
from services.telemetry.segments import Bounds, Segments
from services.telemetry.store import Store
from tests.support.waiting import eventually

ORDER, OTHER = (f"orders/1b9d6bcd-bbfd-4b2d-9b5d-ab8dfbbd4be{n}" for n in "de")
TRACES = [f"{n:032x}" for n in range(1, 5)]
NS = 1_790_000_000_000_000_000
FAT = {"fat": "x" * 1000}
LINE = Line(NS, "info", "order", "order-1", "call", "", "", "", {})


class Kept:
    """A store on a folder."""

    def __init__(self, folder: Path, bounds: Bounds | None = None) -> None:
        self.now = 1000.0
        self.segments = Segments(folder, bounds or Bounds(), lambda: self.now)
        self.intake = Intake(self.segments)
        self.store = Store(self.segments, self.intake)

    def write(self) -> None:
        """Everything that waits; afterwards the intake takes no more."""
        self.intake.close()
        self.intake.run()
        self.intake = Intake(self.segments)
        self.store = Store(self.segments, self.intake)


def span(
    trace: str, id: int, name: str, above: int = 0, at: int = 0, took: int = 10, about: Mapping[str, str] | None = None
) -> trace_pb2.Span:
    return trace_pb2.Span(
        trace_id=bytes.fromhex(trace),
        span_id=id.to_bytes(8),
        parent_span_id=above.to_bytes(8) if above else b"",
        name=name,
        kind=trace_pb2.Span.SPAN_KIND_SERVER,
        start_time_unix_nano=NS + at,
        end_time_unix_nano=NS + at + took,
        attributes=[KeyValue(key=key, value=AnyValue(string_value=value)) for key, value in (about or {}).items()],
    )


def request(service: str, *spans: trace_pb2.Span, instance: str = "") -> ExportTraceServiceRequest:
    made = ExportTraceServiceRequest()
    about = made.resource_spans.add()
    for key, value in (("service.name", service), ("service.instance.id", instance or f"{service}-1")):
        about.resource.attributes.append(KeyValue(key=key, value=AnyValue(string_value=value)))
    about.scope_spans.add().spans.extend(spans)
    return made


type Open = Callable[..., Kept]


@pytest.fixture
def open_store(tmp_path: Path) -> Iterator[Open]:
    """Opens a store in the test's folder, the same one every time."""
    opened = list[Kept]()

    def open_store(bounds: Bounds | None = None) -> Kept:
        opened.append(Kept(tmp_path, bounds))
        return opened[-1]

    yield open_store
    for kept in opened:
        kept.segments.close()


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kept]:
    """Four traces, the last with an error, and lines about two orders."""
    kept = Kept(tmp_path_factory.mktemp("store"))
    failed = span(TRACES[3], 41, "Place", at=400)
    failed.status.code = trace_pb2.Status.STATUS_CODE_ERROR
    failed.status.message = "no"
    kept.intake.put_spans(request("envoy", span(TRACES[0], 10, "ingress", took=100)))
    kept.intake.put_spans(
        request(
            "order",
            span(TRACES[0], 11, "Place", above=10, at=10, took=80, about={"shop.order": ORDER}),
            span(TRACES[1], 21, "Get", at=200),
            span(TRACES[2], 31, "Place", at=300, took=5000, about={"http.url": f"/v1/{ORDER}?x"}),
            failed,
        )
    )
    kept.intake.put_spans(request("inventory", span(TRACES[0], 12, "Reserve", above=11, at=20)))
    said = [
        LINE._replace(message="order placed", order=ORDER, trace_id=TRACES[0], fields={"mail": "ann@example.com"}),
        LINE._replace(time_ns=NS + 1, service="envoy", instance="envoy", message="access", trace_id=TRACES[0]),
        LINE._replace(time_ns=NS + 2, instance="order-2", level="warning", message="Café OUT_OF_STOCK", order=OTHER),
        LINE._replace(
            time_ns=NS + 9, level="error", message="broke", fields={"why": {"deep": ["no mug left"]}, "n": 7}
        ),
        LINE._replace(time_ns=NS + 5, level="debug", message="looked", trace_id=TRACES[2]),
    ]
    kept.intake.put_lines(said, ("order-1", 4, 99))
    kept.write()
    yield kept
    kept.segments.close()


def test_a_trace_has_all_its_spans_by_start(kept: Kept) -> None:
    found = kept.store.trace(TRACES[0])

    assert [(each.service, each.instance, each.name, each.parent_id) for each in found] == [
        ("envoy", "envoy-1", "ingress", ""),
        ("order", "order-1", "Place", f"{10:016x}"),
        ("inventory", "inventory-1", "Reserve", f"{11:016x}"),
    ]
    assert (found[0].start_ns, found[0].end_ns, found[0].kind, found[0].status) == (NS, NS + 100, "SERVER", "UNSET")
    assert [(each.status, each.status_message) for each in kept.store.trace(TRACES[3])] == [("ERROR", "no")]
    assert kept.store.trace("ab" * 16) == kept.store.trace("no id") == []


@pytest.mark.parametrize(
    ("query", "traces"),
    [
        (TraceQuery(), [3, 2, 1, 0]),
        (TraceQuery(limit=2), [3, 2]),
        (TraceQuery(service="order"), [3, 2, 1, 0]),
        (TraceQuery(service="inventory"), [0]),
        (TraceQuery(service="nobody"), []),
        (TraceQuery(service="order", span_name="Place"), [3, 2, 0]),
        (TraceQuery(service="envoy", span_name="Place"), []),
        (TraceQuery(order=ORDER), [2, 0]),
        (TraceQuery(order=ORDER, service="envoy"), [0]),
        (TraceQuery(order=OTHER), []),
        (TraceQuery(attributes={"shop.order": ORDER}), [0]),
        (TraceQuery(attributes={"shop.order": ""}), [0]),
        (TraceQuery(attributes={"shop.order": ORDER[:-1]}), []),
        (TraceQuery(attributes={"error": ""}), [3]),
        (TraceQuery(min_duration_ns=1000), [2]),
        (TraceQuery(max_duration_ns=50, service="envoy"), []),
        (TraceQuery(since_ns=NS + 200, until_ns=NS + 300), [2, 1]),
    ],
)
def test_traces_are_found_newest_first(kept: Kept, query: TraceQuery, traces: Sequence[int]) -> None:
    assert [spans[0].trace_id for spans in kept.store.traces(query)] == [TRACES[number] for number in traces]


@pytest.mark.parametrize(
    ("query", "messages"),
    [
        (LineQuery(), ["order placed", "access", "Café OUT_OF_STOCK", "looked", "broke"]),
        (LineQuery(limit=2), ["looked", "broke"]),
        (LineQuery(service="envoy"), ["access"]),
        (LineQuery(service="order-2"), ["Café OUT_OF_STOCK"]),
        (LineQuery(level="warning"), ["Café OUT_OF_STOCK", "broke"]),
        (LineQuery(level="warning", service="order-1"), ["broke"]),
        (LineQuery(text="PLACED ord"), ["order placed"]),
        (LineQuery(text="laced"), []),
        (LineQuery(text="out_of"), ["Café OUT_OF_STOCK"]),
        (LineQuery(text="cafe"), ["Café OUT_OF_STOCK"]),
        (LineQuery(text="of_out"), []),
        (LineQuery(text="mug"), ["broke"]),
        (LineQuery(text="ann@exam"), ["order placed"]),
        (LineQuery(text='"'), []),
        (LineQuery(text='placed" OR "broke'), []),
        (LineQuery(text="placed", service="envoy"), []),
        (LineQuery(trace_id=TRACES[0]), ["order placed", "access"]),
        (LineQuery(trace_id=TRACES[0], text="acc"), ["access"]),
        (LineQuery(trace_id="no id"), []),
        (LineQuery(order=ORDER), ["order placed", "access", "looked"]),  # all of the traces that name it
        (LineQuery(order=ORDER, level="info"), ["order placed", "access"]),
        (LineQuery(order=OTHER), ["Café OUT_OF_STOCK"]),
        (LineQuery(since_ns=NS + 1, until_ns=NS + 2), ["access", "Café OUT_OF_STOCK"]),
        (LineQuery(since_ns=NS + 2, text="b"), ["broke"]),
    ],
)
def test_lines_are_found_and_given_by_time(kept: Kept, query: LineQuery, messages: Sequence[str]) -> None:
    assert [line.message for line in kept.store.lines(query)] == messages


def test_lines_are_followed_as_they_arrive(kept: Kept) -> None:
    first, *later = sorted(kept.store.lines(LineQuery()), key=lambda line: line.id)

    assert first.message == "order placed"
    assert kept.store.lines(LineQuery(after_id=first.id)) == later
    assert kept.store.lines(LineQuery(after_id=first.id, limit=1)) == later[:1]
    assert kept.store.lines(LineQuery(after_id=first.id, level="warning")) == [later[1], later[2]]
    assert kept.store.lines(LineQuery(after_id=first.id, text="broke")) == [later[2]]
    assert kept.store.lines(LineQuery(after_id=later[-1].id)) == []
    assert kept.store.last_line() == later[-1].id


def test_a_line_comes_back_as_it_was(kept: Kept) -> None:
    (line,) = kept.store.lines(LineQuery(text="broke"))

    assert line._replace(id=0) == LINE._replace(
        time_ns=NS + 9, level="error", message="broke", fields={"why": {"deep": ["no mug left"]}, "n": 7}
    )


def test_names_dependencies_marks_and_counts_are_told(kept: Kept) -> None:
    assert kept.store.services() == ["envoy", "inventory", "order"]
    assert kept.store.span_names("order") == ["Get", "Place"]
    assert kept.store.dependencies(NS, NS + 1000) == [
        Dependency("envoy", "order", 1, 0), Dependency("order", "inventory", 1, 0),
    ]  # fmt: skip
    assert kept.store.marks() == {"order-1": (4, 99)}
    status = kept.store.status()
    assert (status.spans, status.lines, status.dropped, status.waiting_bytes) == (6, 5, 0, 0)
    assert status.oldest_ns == 1000 * 10**9


def test_every_kind_of_value_event_and_link_is_read(open_store: Open) -> None:
    kept = open_store()
    made = span(TRACES[0], 1, "all")
    values = {
        "text": AnyValue(string_value="x\0y"),
        "yes": AnyValue(bool_value=True),
        "int": AnyValue(int_value=-(2**63)),
        "share": AnyValue(double_value=0.5),
        "bytes": AnyValue(bytes_value=b"\xff"),
        "none": AnyValue(),
        "list": AnyValue(array_value=ArrayValue(values=[AnyValue(int_value=1)])),
        "map": AnyValue(kvlist_value=KeyValueList(values=[KeyValue(key="a", value=AnyValue(string_value="b"))])),
    }
    made.attributes.extend(KeyValue(key=key, value=value) for key, value in values.items())
    made.events.add(name="stumbled", time_unix_nano=NS)
    made.links.add(trace_id=bytes.fromhex(TRACES[1]), span_id=(9).to_bytes(8))
    made.start_time_unix_nano, made.end_time_unix_nano = 2**64 - 1, 5  # as hostile clocks have it
    kept.intake.put_spans(request("order", made))
    kept.write()

    (read,) = kept.store.trace(TRACES[0])
    assert read.attributes == {
        "text": "x\0y", "yes": True, "int": -(2**63), "share": 0.5, "bytes": "/w==", "none": None, "list": [1],
        "map": {"a": "b"},
    }  # fmt: skip
    assert read.events == (SpanEvent("stumbled", NS, {}),)
    assert read.links == (SpanLink(TRACES[1], f"{9:016x}", {}),)
    assert (read.start_ns, read.end_ns) == (2**64 - 1, 5)
    for query in ({"yes": "true"}, {"int": str(-(2**63))}, {"share": "0.5"}, {"stumbled": ""}):
        assert len(kept.store.traces(TraceQuery(attributes=query))) == 1, query


def test_a_restart_goes_on_where_the_store_was(open_store: Open) -> None:
    before = open_store()
    before.intake.put_spans(request("order", span(TRACES[0], 1, "Place")))
    before.intake.put_lines([LINE], ("order-1", 4, 10))
    before.write()
    before.segments.close()

    after = open_store()
    after.intake.put_spans(request("order", span(TRACES[0], 2, "Place")))
    after.intake.put_lines([LINE], ("order-1", 4, 20))
    after.write()
    assert len(after.store.trace(TRACES[0])) == 2
    assert len({line.id for line in after.store.lines(LineQuery())}) == 2
    assert after.store.marks() == {"order-1": (4, 20)}


def test_beyond_its_bytes_the_oldest_goes_and_the_files_stop_to_grow(open_store: Open, tmp_path: Path) -> None:
    most = 4 << 20
    kept = open_store(Bounds(bytes=most))
    largest = 0
    for number in range(1, 26):
        trace = f"{number:032x}"
        kept.intake.put_spans(request("order", *(span(trace, n + 1, "Place", about=FAT) for n in range(200))))
        kept.intake.put_lines([LINE._replace(trace_id=trace)], ("order-1", 1, number))
        kept.write()
        largest = max(largest, sum(file.stat().st_size for file in tmp_path.iterdir()))

    assert most / 2 < largest <= most
    assert kept.store.status().bytes <= most
    assert len(kept.store.trace(f"{25:032x}")) == 200
    assert kept.store.trace(f"{1:032x}") == []
    assert kept.store.marks() == {"order-1": (1, 25)}
    newest = kept.store.lines(LineQuery(limit=6))  # of several segments
    assert [line.trace_id for line in sorted(newest, key=lambda line: line.id)] == [f"{n:032x}" for n in range(20, 26)]
    assert kept.store.lines(LineQuery(after_id=newest[0].id, limit=4)) == newest[1:5]


@pytest.fixture
def two_segments(open_store: Open) -> Kept:
    """A line in the first, and five in the second."""
    kept = open_store(Bounds(age_s=80))
    kept.intake.put_lines([LINE._replace(message="line 0")])
    kept.write()
    kept.now += 20
    kept.intake.put_lines([LINE._replace(time_ns=NS + n, message=f"line {n}") for n in range(1, 6)])
    kept.write()
    return kept


def test_who_follows_loses_no_line_where_a_segment_was_begun(two_segments: Kept) -> None:
    store = two_segments.store
    told, last = list[str](), store.lines(LineQuery())[0].id
    while lines := store.lines(LineQuery(after_id=last, limit=2)):
        told += [line.message for line in lines]
        last = max(line.id for line in lines)
    assert told == [f"line {n}" for n in range(1, 6)]


def test_what_is_older_than_the_first_line_of_a_segment_is_found(two_segments: Kept) -> None:
    first = two_segments.store.lines(LineQuery())[1]
    assert [line.message for line in reading.lines(two_segments.store, LineQuery(), first.id)] == ["line 0"]


@pytest.mark.parametrize("following", [False, True])
def test_lines_too_large_for_one_answer_leave_no_gap_between_segments(open_store: Open, following: bool) -> None:
    kept = open_store(Bounds(age_s=80))
    for number in range(3):
        kept.now += 20
        large = "x" * (3 << 20)
        kept.intake.put_lines([LINE._replace(time_ns=NS + 10 * number + n, message=large) for n in range(4)])
        kept.write()
    found = kept.store.lines(LineQuery(after_id=1 if following else 0, limit=100))
    times = [line.time_ns - NS for line in found]
    assert times == ([0, 1, 2, 3, 10, 11] if following else [12, 13, 20, 21, 22, 23])


def test_a_trace_that_goes_between_two_questions_is_left_out(
    two_segments: Kept, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = two_segments
    kept.intake.put_spans(request("order", span(TRACES[0], 1, "Place")))
    kept.write()
    monkeypatch.setattr(finding, "traces", lambda *_: iter([bytes.fromhex(TRACES[1]), bytes.fromhex(TRACES[0])]))
    assert [spans[0].trace_id for spans in kept.store.traces(TraceQuery())] == [TRACES[0]]


def test_the_bytes_of_a_trace_and_of_a_list_of_them_are_bounded(open_store: Open) -> None:
    kept = open_store(Bounds(age_s=80))
    for number in range(3):
        kept.now += 20
        for trace in TRACES[:3]:
            for n in range(3):
                kept.intake.put_spans(request("order", span(trace, 10 * number + n + 1, "x" * (3 << 20), at=n)))
            kept.write()

    assert len(kept.store.trace(TRACES[0])) == 6
    assert [len(spans) for spans in kept.store.traces(TraceQuery())] == [6]
    assert kept.store.dependencies(NS, NS + 10) == []


def test_names_to_choose_from_are_bounded(open_store: Open) -> None:
    kept = open_store()
    kept.intake.put_spans(request("order", *(span(TRACES[0], n + 1, f"name {n}") for n in range(1100))))
    kept.intake.put_spans(request("order", span(TRACES[0], 9999, "a" * 501)))
    kept.intake.put_lines([LINE._replace(service=f"service {n}") for n in range(1100)])
    kept.intake.put_lines([LINE._replace(service="a" * 501)])
    kept.write()
    for names in (kept.store.services(), kept.store.span_names("order")):
        assert len(names) == 1000
        assert max(map(len, names)) < 500


def test_dependencies_are_those_of_the_newest_traces(open_store: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "_DEPENDENCIES_OF", 2)
    kept = open_store()
    for trace, callee in zip(TRACES[:2], ("old", "new"), strict=True):
        kept.intake.put_spans(request("order", span(trace, 1, "call")))
        kept.intake.put_spans(request(callee, span(trace, 2, "answer", above=1)))
    kept.write()
    assert kept.store.dependencies(NS, NS + 10) == [Dependency("order", "new", 1, 0)]


def test_beyond_its_age_everything_goes(open_store: Open) -> None:
    kept = open_store(Bounds(age_s=80))
    for number in range(20):
        kept.now += 8
        kept.intake.put_spans(request("order", span(f"{number + 1:032x}", 1, "Place")))
        kept.write()
    ages = [8 * (19 - number) for number in range(20) if kept.store.trace(f"{number + 1:032x}")]
    assert 72 <= max(ages) <= 80 + 24  # a segment is an eighth of the time or a little more, and goes as a whole


def test_what_was_said_before_a_long_rest_goes_with_it(open_store: Open) -> None:
    kept = open_store(Bounds(age_s=80))
    for trace in TRACES[:2]:
        kept.intake.put_spans(request("order", span(trace, 1, "Place")))
        kept.write()
        kept.now += 100
    assert [bool(kept.store.trace(trace)) for trace in TRACES[:2]] == [False, True]


def test_an_answer_is_bounded_whatever_was_sent(open_store: Open) -> None:
    kept = open_store()
    for number in range(3):
        endless = (span(TRACES[0], 5000 * number + n, "Place") for n in range(1, 5000))
        kept.intake.put_spans(request("order", *endless))
    kept.intake.put_lines([LINE._replace(message="x" * (3 << 20)) for _ in range(8)])
    kept.write()

    assert len(kept.store.trace(TRACES[0])) == MOST_SPANS
    assert [len(spans) for spans in kept.store.traces(TraceQuery())] == [MOST_SPANS]
    assert len(kept.store.lines(LineQuery())) == 6
    assert kept.store.dependencies(NS, NS + 1) == []


def test_what_finds_no_room_is_dropped_counted_and_told(open_store: Open) -> None:
    kept = open_store()
    kept.intake = Intake(kept.segments, most_bytes=3000)
    kept.store = Store(kept.segments, kept.intake)
    full = request("order", *(span(TRACES[0], n + 1, "Place") for n in range(10)))
    answers = [kept.intake.put_spans(full) for _ in range(10)]
    took = [kept.intake.put_lines([LINE._replace(message="x" * 200)]) for _ in range(10)]

    rejected = sum(count for count, _ in answers)
    assert 0 < rejected < 100
    assert answers[-1] == (10, "overloaded")
    assert not kept.intake.has_room
    status = kept.store.status()
    assert status.dropped_spans == {"overloaded": rejected}
    assert status.dropped_lines == {"overloaded": took.count(False)}
    assert status.waiting_bytes <= 3000
    kept.write()
    assert kept.store.status().spans == 100 - rejected


@pytest.mark.parametrize("id", [b"", bytes(16), b"short", bytes(32)])
def test_spans_without_sound_ids_are_rejected_and_the_others_kept(open_store: Open, id: bytes) -> None:
    kept = open_store()
    unsound = span(TRACES[1], 2, "Place")
    unsound.trace_id = id
    assert kept.intake.put_spans(request("order", span(TRACES[0], 1, "Place"), unsound)) == (1, "ids invalid")
    kept.write()
    assert kept.store.status().spans == 1
    assert kept.store.status().dropped_spans == {}  # of the intake that was closed


@pytest.mark.parametrize("where", ["the beginning", "the middle", "a page of another schema"])
def test_a_broken_file_is_put_aside_and_a_new_one_begun(
    open_store: Open, tmp_path: Path, where: str, capsys: pytest.CaptureFixture[str]
) -> None:
    kept = open_store()
    kept.intake.put_spans(request("order", *(span(TRACES[0], n + 1, "Place", about=FAT) for n in range(200))))
    kept.write()
    kept.segments.close()
    (file,) = tmp_path.glob("*.db")
    if where == "a page of another schema":
        with sqlite3.connect(file) as database:
            database.execute("pragma user_version = 99")
        database.close()
    else:
        with file.open("r+b") as content:
            content.seek(0 if where == "the beginning" else 4096)
            content.write(b"\xa5" * 120_000)

    kept = open_store()
    assert kept.store.trace(TRACES[0]) == []  # nothing is raised
    kept.intake.put_spans(request("order", span(TRACES[1], 1, "Place")))
    kept.write()
    assert len(kept.store.trace(TRACES[1])) == 1
    assert [path.name for path in tmp_path.glob("*.broken")] == ["00000001.broken"]
    assert capsys.readouterr().out.count("was put aside") == 1


@contextmanager
def writing(kept: Kept) -> Iterator[None]:
    thread = threading.Thread(target=kept.intake.run)
    thread.start()
    try:
        yield
    finally:
        kept.intake.close()
        thread.join()


def spoil(folder: Path) -> None:
    """What a disk that forgets does to a file that is in use."""
    for file in (*folder.glob("*.db"), *folder.glob("*.db-wal")):
        with file.open("r+b") as content:
            content.write(b"\xa5" * file.stat().st_size)


async def test_a_file_that_breaks_while_it_is_written_costs_nothing_that_comes_later(
    open_store: Open, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kept = open_store()
    with writing(kept):
        for number in range(1, 5):
            trace = f"{number:032x}"

            async def kept_again(trace: str = trace) -> bool:
                kept.intake.put_spans(request("order", span(trace, 1, "Place")))
                return bool(kept.store.trace(trace))

            await eventually(kept_again, f"trace {trace}")
            spoil(tmp_path)
    assert capsys.readouterr().out.count("was put aside") == 3


def test_a_broken_file_that_two_find_is_put_aside_once(
    open_store: Open, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kept = open_store()
    kept.intake.put_lines([LINE])
    kept.write()
    for _ in range(2):
        kept.segments.put_aside(1, sqlite3.DatabaseError("malformed"))
    assert [path.name for path in tmp_path.glob("*.broken")] == ["00000001.broken"]
    assert capsys.readouterr().out.count("was put aside") == 1


def test_a_file_that_goes_before_it_is_opened_is_not_made_again(
    open_store: Open, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = open_store()
    kept.intake.put_lines([LINE])
    kept.write()
    opened = schema.open_to_read

    def too_late(path: Path) -> sqlite3.Connection:
        kept.segments._forget(1)
        path.unlink()
        return opened(path)

    monkeypatch.setattr(schema, "open_to_read", too_late)
    kept.segments._idle.clear()
    with kept.segments.reading(1) as database:
        assert database is None
    assert not list(tmp_path.glob("*.db"))
    assert "broken" not in capsys.readouterr().out


def test_housekeeping_that_the_disk_refuses_costs_nothing_that_comes(
    open_store: Open, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    kept = open_store(Bounds(age_s=80))
    monkeypatch.setattr(kept.segments, "expire", refused)
    for trace in TRACES:
        kept.now += 20
        kept.intake.put_spans(request("order", span(trace, 1, "Place")))
        kept.write()
    assert [len(kept.store.trace(trace)) for trace in TRACES] == [1] * 4
    assert "old files of the store cannot be removed" in capsys.readouterr().out


def test_a_question_that_takes_too_long_is_given_up(open_store: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = open_store()
    kept.intake.put_spans(request("order", *(span(TRACES[0], n + 1, "Place") for n in range(5000))))
    kept.write()
    never = TraceQuery(attributes={"never": "there"})
    assert kept.store.traces(never) == []
    with monkeypatch.context() as hurried:
        hurried.setattr(store, "MOST_S", -1.0)
        with pytest.raises(TooLong, match="narrow it"):
            kept.store.traces(never)
    assert kept.store.traces(never) == []
    assert len(kept.store.trace(TRACES[0])) == 5000


def test_a_file_that_somebody_removes_is_forgotten(open_store: Open, tmp_path: Path) -> None:
    kept = open_store()
    for trace in TRACES[:2]:  # found by the writer, then by a reader
        kept.intake.put_spans(request("order", span(trace, 1, "Place")))
        kept.write()
        assert len(kept.store.trace(trace)) == 1
        kept.segments.close()
        for file in tmp_path.glob("*.db*"):
            file.unlink()
    assert kept.store.trace(TRACES[1]) == []
