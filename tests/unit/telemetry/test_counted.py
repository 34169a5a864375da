"""What the store loses and keeps, among the numbers of its process."""

from pathlib import Path

from services.chassis import reporting
from services.chassis.settings import Settings
from services.log_files import Line
from services.telemetry.counted import count
from services.telemetry.intake import Intake
from services.telemetry.segments import Bounds, Segments
from tests.support.scraped import Scraped


def test_what_is_dropped_and_refused_is_counted_by_its_reason(tmp_path: Path) -> None:
    segments = Segments(tmp_path, Bounds(bytes=1 << 20, age_s=60))
    intake = Intake(segments, most_bytes=1)

    def now() -> Scraped:
        return Scraped(reporting.page(Settings.read("telemetry", {})))

    count(intake, segments)
    assert now().value("shopmesh_store_dropped_total", signal="logs", reason="overloaded") == 0

    line = Line(1, "info", "order", "order-1", "hello", "", "", "", {})
    assert not intake.put_lines([line, line])
    intake.refuse("malformed")

    seen = now()
    assert seen.value("shopmesh_store_dropped_total", signal="logs", reason="overloaded") == 2
    assert seen.value("shopmesh_store_dropped_total", signal="traces", reason="overloaded") == 0
    assert seen.value("shopmesh_store_refused_total", reason="malformed") == 1
    assert seen.value("shopmesh_store_size_limit_bytes") == 1 << 20
    assert seen.value("shopmesh_store_size_bytes") == segments.bytes()
    segments.close()
