"""How a process counts: numbers that are declared beside their use, and read every few seconds (ADR 0014).

    _mails = Counter("shop.notification.mails", "{mail}", "Mails that were handed to the mail server.", "outcome")
    _mails.add("sent")

Names, units and labels are OpenTelemetry's: its semantic conventions where they have one, else `shop.` for the business
and `shopmesh.` for what it stands on. A label has few values, all known when the code is written: a code, a
reason, a state; never an order, a product or a person. What exceeds MOST_SERIES all the same is counted as one series.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping
from enum import Enum
from time import time_ns

type Labels = tuple[str, ...]
"""Values in the order in which the metric names its labels. An empty one is as good as none."""
type Attributes = dict[str, str | bool]

MOST_SERIES = 1000
"""Of one metric in one process."""
SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
"""Bounds for what takes milliseconds: those of the semantic conventions, and two for what is faster."""

_OVERFLOW: Labels = ("\0overflow",)
_OVERFLOW_ATTRIBUTES: Attributes = {"otel.metric.overflow": True}  # OpenTelemetry, Metrics SDK: cardinality limits


class Kind(Enum):
    """What a reader may do with the numbers: rates of a counter, sums of a gauge, percentiles of a histogram."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


class Distribution:
    """How many values lie at or below each bound, and between it and the one before."""

    __slots__ = ("counts", "sum")

    def __init__(self, bounds: int) -> None:
        self.counts = [0] * (bounds + 1)
        """The last one: beyond all bounds."""
        self.sum = 0.0


class Metrics:
    """All metrics of a process. Raises ValueError for a name that is taken."""

    def __init__(self) -> None:
        self.started_ns = time_ns()
        self._by_name: dict[str, Metric] = {}

    def __iter__(self) -> Iterator["Metric"]:
        return iter(tuple(self._by_name.values()))

    def declare(self, metric: "Metric") -> None:
        if metric.name in self._by_name:
            raise ValueError(f"there are two metrics {metric.name}")
        self._by_name[metric.name] = metric


declared = Metrics()
"""Those of this process: of all modules that it has imported."""


class Metric:
    """What all kinds have. Each may be used by one thread at a time, and read by another."""

    kind: Kind

    def __init__(self, name: str, unit: str, about: str, *labels: str, among: Metrics = declared) -> None:
        """`unit` in UCUM's letters (`s`, `By`, `{order}`), `about` one sentence for whoever looks at a graph."""
        self.name, self.unit, self.about, self.labels = name, unit, about, labels
        among.declare(self)

    def attributes(self, labels: Labels) -> Attributes:
        """The labels of a series by their names."""
        if labels is _OVERFLOW:
            return _OVERFLOW_ATTRIBUTES
        return {name: value for name, value in zip(self.labels, labels, strict=True) if value}

    def admitted(self, labels: Labels, known: int) -> Labels:
        """The key of a series that is new beside so many others. Raises ValueError for labels that are not its own."""
        if len(labels) != len(self.labels):
            raise ValueError(f"{self.name} has the labels {self.labels}, not {labels}")
        return labels if known < MOST_SERIES else _OVERFLOW


class Single(Metric):
    """A metric with one number for each series."""

    def __init__(self, name: str, unit: str, about: str, *labels: str, among: Metrics = declared) -> None:
        super().__init__(name, unit, about, *labels, among=among)
        self._values: dict[Labels, float] = {}
        self._ask: Callable[[], Mapping[Labels, float]] | None = None

    def ask(self, values: Callable[[], Mapping[Labels, float]]) -> None:
        """From now on it is read there each time: at once, and without waiting for anything."""
        self._ask = values

    def numbers(self) -> Iterator[tuple[Attributes, float]]:
        """Of each series, now."""
        values = self._ask() if self._ask else self._values.copy()
        return ((self.attributes(labels), value) for labels, value in values.items())


class Counter(Single):
    """Only ever rises, from 0 when the process starts."""

    kind = Kind.COUNTER

    def __init__(self, name: str, unit: str, about: str, *labels: str, among: Metrics = declared) -> None:
        super().__init__(name, unit, about, *labels, among=among)
        if not labels:
            self._values[()] = 0

    def add(self, *labels: str, by: float = 1) -> None:
        """Counts something once, or `by` times. By 0 it is only there: its first rise is seen as one."""
        try:
            self._values[labels] += by
        except KeyError:
            key = self.admitted(labels, len(self._values))
            self._values[key] = self._values.get(key, 0) + by


class Gauge(Single):
    """A number as it is now. What is not known at the moment has no value, not an old one."""

    kind = Kind.GAUGE

    def set(self, value: float, *labels: str) -> None:
        """Of one series."""
        self._values[labels if labels in self._values else self.admitted(labels, len(self._values))] = value

    def set_all(self, values: Mapping[Labels, float]) -> None:
        """These, and no others any more."""
        self.forget()
        for labels, value in values.items():
            self.set(value, *labels)

    def forget(self) -> None:
        """Nothing is known now."""
        self._values = {}


class Histogram(Metric):
    """How values are distributed."""

    kind = Kind.HISTOGRAM

    def __init__(
        self,
        name: str,
        unit: str,
        about: str,
        *labels: str,
        bounds: tuple[float, ...] = SECONDS,
        among: Metrics = declared,
    ) -> None:
        super().__init__(name, unit, about, *labels, among=among)
        self.bounds = bounds
        self._series: dict[Labels, Distribution] = {}

    def record(self, value: float, *labels: str) -> None:
        """Counts one value."""
        series = self._series.get(labels)
        if series is None:
            key = self.admitted(labels, len(self._series))
            series = self._series.setdefault(key, Distribution(len(self.bounds)))
        series.counts[bisect_left(self.bounds, value)] += 1
        series.sum += value

    def distributions(self) -> Iterator[tuple[Attributes, Distribution]]:
        """Of each series, now."""
        return ((self.attributes(labels), series) for labels, series in self._series.copy().items())
