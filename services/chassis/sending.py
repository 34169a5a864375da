"""Spans and lines on their way to the OTLP endpoint. Calls are worth more, and may lose nothing by what tells of them.

They wait in a queue of bounded length, and a thread sends them in batches. Where nobody takes them, or takes them
slowly, the oldest are dropped; that is counted, and told at most once a minute, and at the end.
"""

import threading
import time
from collections import Counter as Tally
from collections import deque
from collections.abc import Callable, Sequence
from enum import Enum

import grpc
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse

from services.chassis import collector, logs
from services.chassis.metrics import Counter
from services.chassis.patience import Seldom, told

MOST_WAITING = 4096
"""Two seconds of a service under full load: 6 MB of spans, 2 MB of lines."""
BATCH = 512
EVERY_S = 0.5
ANSWER_S = 2.0
PAUSE_S = 1.0
"""After a batch that was not taken."""
_OPTIONS = (
    ("grpc.enable_retries", 0),
    ("grpc.initial_reconnect_backoff_ms", 500),
    ("grpc.max_reconnect_backoff_ms", 1000),
)

_OVERFLOW = "queue full"
_dropped = Counter(
    "shopmesh.telemetry.dropped", "{item}", "What was recorded and not taken by the endpoint.", "signal", "reason"
)

log = logs.get()


class Signal(Enum):
    """What is sent: its name in OpenTelemetry and in our lines, and the rpc that takes it."""

    SPANS = "traces", "spans", "/opentelemetry.proto.collector.trace.v1.TraceService/Export"
    LINES = "logs", "lines", "/opentelemetry.proto.collector.logs.v1.LogsService/Export"

    def __init__(self, signal: str, things: str, rpc: str) -> None:
        self.signal, self.things, self.rpc = signal, things, rpc
        self.dropped, self.unwritable = f"{things} were dropped", f"{things} cannot be written"


def rejected(response: bytes) -> int:
    """How many of a request were not taken. The responses of all signals have the number at the same place."""
    return int(ExportTraceServiceResponse.FromString(response).partial_success.rejected_spans)


class Sender[T]:
    """Takes what there is to be sent, from any thread, at once."""

    def __init__(self, endpoint: str, encode: Callable[[Sequence[T]], bytes], signal: Signal = Signal.SPANS) -> None:
        """`encode` makes the request of the signal's rpc; raises TypeError or ValueError for what cannot be written."""
        self._endpoint, self._encode, self._signal = endpoint, encode, signal
        self._channel = collector.channel(endpoint, _OPTIONS)
        self._export: grpc.UnaryUnaryMultiCallable[bytes, int] = self._channel.unary_unary(
            signal.rpc, response_deserializer=rejected
        )
        self._waiting = deque[T](maxlen=MOST_WAITING)
        self._batch: Sequence[T] = ()
        """On its way, or to be tried again."""
        self._overflowed = 0
        self._lost, self._seldom = Tally[str](), Seldom()
        self._sending = threading.Lock()
        self._wake, self._closed = threading.Event(), threading.Event()
        _dropped.add(signal.signal, _OVERFLOW, by=0)
        self._thread = threading.Thread(target=self._run, name=signal.things, daemon=True)
        self._thread.start()

    def put(self, one: T) -> None:
        """It is dropped when the endpoint has not kept up."""
        waiting = self._waiting
        if len(waiting) == MOST_WAITING:
            self._overflowed += 1
        waiting.append(one)  # the oldest one goes
        if len(waiting) >= BATCH and not self._wake.is_set():
            self._wake.set()

    def flush(self) -> None:
        """Sends what there is; blocks, for 2 s when nobody takes it."""
        while (self._waiting or self._batch) and self._send(ANSWER_S):
            pass

    def close(self, within_s: float = ANSWER_S) -> None:
        """Sends what is left; blocks for 2 s at most. What is not taken by then is lost, and counted."""
        until = time.monotonic() + within_s
        self._closed.set()
        self._wake.set()
        self._thread.join(within_s)
        while (left := until - time.monotonic()) > 0 and (self._waiting or self._batch) and self._send(left):
            pass
        self._channel.close()  # ends what is still on its way
        with self._sending:
            self._lose("ended", len(self._waiting) + len(self._batch))
        self._tell()

    def _run(self) -> None:
        while not self._closed.is_set():
            taken = self._send(ANSWER_S)
            self._tell()
            if not taken:
                self._closed.wait(PAUSE_S)
            if len(self._waiting) < BATCH:
                self._wake.wait(EVERY_S)
                self._wake.clear()

    def _send(self, within_s: float) -> bool:
        """One batch. Whether it was taken, wholly or in parts."""
        with self._sending:
            self._batch = self._batch or [self._waiting.popleft() for _ in range(min(BATCH, len(self._waiting)))]
            if not self._batch:
                return True
            try:
                request = self._encode(self._batch)
            except (TypeError, ValueError) as error:  # such as UnicodeEncodeError
                lost = {self._signal.things: len(self._batch)}
                log.warning(self._signal.unwritable, **lost, **told(error))
                self._lose("unwritable", len(self._batch))
                self._batch = ()
                return False
            try:
                refused = self._export(request, timeout=within_s)
            except grpc.RpcError as error:
                # UNAVAILABLE has not been taken, by nobody or by one who wants it later. The rest may have been, or
                # never will be.
                if error.code() is not grpc.StatusCode.UNAVAILABLE:
                    self._lose(error.code().name, len(self._batch))
                    self._batch = ()
                return False
            self._batch = ()
            self._lose("rejected", refused)
            return True

    def _lose(self, reason: str, count: int) -> None:
        if count > 0:
            self._lost[reason] += count
            _dropped.add(self._signal.signal, reason, by=count)

    def _tell(self) -> None:
        overflowed, self._overflowed = self._overflowed, 0
        self._lose(_OVERFLOW, overflowed)
        if self._lost and (self._closed.is_set() or self._seldom.may()):
            lost, reasons = {self._signal.things: self._lost.total()}, dict(self._lost)
            self._lost.clear()
            log.warning(self._signal.dropped, endpoint=self._endpoint, **lost, reasons=reasons)
