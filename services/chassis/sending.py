"""Spans on their way to the OTLP endpoint. It is worth less than the calls that it watches: it may cost them nothing.

Spans wait in a queue of bounded length, and a thread sends them in batches. Where nobody takes them, or takes them
slowly, the oldest are dropped; that is counted, and told at most once a minute, and at the end.
"""

import threading
import time
from collections import Counter as Tally
from collections import deque
from collections.abc import Callable, Sequence

import grpc
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse
from opentelemetry.sdk.trace import ReadableSpan

from services.chassis import collector, logs
from services.chassis.metrics import Counter
from services.chassis.patience import Seldom, told

MOST_WAITING = 4096
"""Spans: two seconds of a service under full load, 6 MB."""
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

_SIGNAL, _OVERFLOW = "traces", "queue full"
_dropped = Counter(
    "shopmesh.telemetry.dropped", "{item}", "What was recorded and not taken by the endpoint.", "signal", "reason"
)
_dropped.add(_SIGNAL, _OVERFLOW, by=0)

log = logs.get()


class Sender:
    """Takes spans that have ended, from any thread, at once."""

    def __init__(self, endpoint: str, encode: Callable[[Sequence[ReadableSpan]], bytes]) -> None:
        """`encode` makes an ExportTraceServiceRequest; raises TypeError or ValueError for what cannot be written."""
        self._endpoint, self._encode = endpoint, encode
        self._channel = collector.channel(endpoint, _OPTIONS)
        self._export: grpc.UnaryUnaryMultiCallable[bytes, ExportTraceServiceResponse] = self._channel.unary_unary(
            "/opentelemetry.proto.collector.trace.v1.TraceService/Export",
            response_deserializer=ExportTraceServiceResponse.FromString,
        )
        self._waiting = deque[ReadableSpan](maxlen=MOST_WAITING)
        self._batch: Sequence[ReadableSpan] = ()
        """On its way, or to be tried again."""
        self._overflowed = 0
        self._lost, self._seldom = Tally[str](), Seldom()
        self._sending = threading.Lock()
        self._wake, self._closed = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="spans", daemon=True)
        self._thread.start()

    def put(self, span: ReadableSpan) -> None:
        """It is dropped when the endpoint has not kept up."""
        waiting = self._waiting
        if len(waiting) == MOST_WAITING:
            self._overflowed += 1
        waiting.append(span)  # the oldest one goes
        if len(waiting) >= BATCH and not self._wake.is_set():
            self._wake.set()

    def flush(self) -> None:
        """Sends what there is; blocks, for 2 s when nobody takes it."""
        while (self._waiting or self._batch) and self._send(ANSWER_S):
            pass

    def close(self) -> None:
        """Sends what is left; blocks for 2 s at most. What is not taken by then is lost, and counted."""
        until = time.monotonic() + ANSWER_S
        self._closed.set()
        self._wake.set()
        self._thread.join(ANSWER_S)
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
                log.warning("spans cannot be written", spans=len(self._batch), **told(error))
                self._lose("unwritable", len(self._batch))
                self._batch = ()
                return False
            try:
                response = self._export(request, timeout=within_s)
            except grpc.RpcError as error:
                # UNAVAILABLE has not been taken, by nobody or by one who wants it later. The rest may have been, or
                # never will be.
                if error.code() is not grpc.StatusCode.UNAVAILABLE:
                    self._lose(error.code().name, len(self._batch))
                    self._batch = ()
                return False
            self._batch = ()
            self._lose("rejected", response.partial_success.rejected_spans)
            return True

    def _lose(self, reason: str, spans: int) -> None:
        if spans > 0:
            self._lost[reason] += spans
            _dropped.add(_SIGNAL, reason, by=spans)

    def _tell(self) -> None:
        overflowed, self._overflowed = self._overflowed, 0
        self._lose(_OVERFLOW, overflowed)
        if self._lost and (self._closed.is_set() or self._seldom.may()):
            log.warning(
                "spans were dropped", endpoint=self._endpoint, spans=self._lost.total(), reasons=dict(self._lost)
            )
            self._lost.clear()
