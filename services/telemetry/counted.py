"""What the store keeps and loses, among the numbers of its process."""

from collections.abc import Iterator, Mapping

from services.chassis.metrics import Counter, Gauge, Labels
from services.telemetry.intake import OVERLOADED, Intake
from services.telemetry.segments import Segments

_dropped = Counter(
    "shopmesh.store.dropped", "{item}", "Spans and lines that the store did not keep.", "signal", "reason"
)
_refused = Counter("shopmesh.store.refused", "{request}", "OTLP requests that were no such, or too much.", "reason")
_size = Gauge("shopmesh.store.size", "By", "What the store takes on the disk.")
_most = Gauge("shopmesh.store.size.limit", "By", "What it may take; then the oldest goes.")
_waiting = Gauge("shopmesh.store.waiting", "By", "What has come and is not on the disk yet.")


def count(intake: Intake, segments: Segments) -> None:
    """From now on."""

    def dropped() -> Iterator[tuple[Labels, float]]:
        for signal, by_reason in (("traces", intake.dropped_spans()), ("logs", intake.dropped_lines())):
            for reason, number in {OVERLOADED: 0, **by_reason}.items():
                yield (signal, reason), number

    def refused() -> Mapping[Labels, float]:
        return {(reason,): number for reason, number in {"malformed": 0, **intake.refused()}.items()}

    _dropped.ask(lambda: dict(dropped()))
    _refused.ask(refused)
    _size.ask(lambda: {(): segments.bytes()})
    _most.ask(lambda: {(): segments.bounds.bytes})
    _waiting.ask(lambda: {(): intake.waiting_bytes})
