"""Faults that Envoy makes of calls on purpose.

Both listeners have the filter from the start, and it does nothing: what it does of a call hangs on the route.
"""

import betterproto2
from envoy_data_plane.envoy.extensions.filters.common.fault.v3 import FaultDelay
from envoy_data_plane.envoy.extensions.filters.http.fault.v3 import FaultAbort, HttpFault
from envoy_data_plane.envoy.type.v3 import FractionalPercent, FractionalPercentDenominatorType
from envoy_data_plane.google.protobuf import Any
from mesh.v1 import policy_pb2

from services.controlplane.resources.encoding import packed

FAULT = "envoy.filters.http.fault"


def fault_filter() -> betterproto2.Message:
    """Makes no fault that no route asks for."""
    return HttpFault()


def made(fault: policy_pb2.Fault) -> dict[str, Any]:
    """For a route."""
    percent = fault.percent if fault.HasField("percent") else 100.0
    share = FractionalPercent(numerator=round(percent * 10_000), denominator=FractionalPercentDenominatorType.MILLION)
    config = HttpFault()
    if fault.HasField("delay"):
        config.delay = FaultDelay(fixed_delay=fault.delay.ToTimedelta(), percentage=share)
    if fault.HasField("abort"):
        config.abort = FaultAbort(grpc_status=fault.abort, percentage=share)
    return {FAULT: packed(config)}
