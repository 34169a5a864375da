"""How ids and names look that lines, spans and addresses of pages give."""

import re

TRACE_ID = re.compile("[0-9a-f]{32}")
SPAN_ID = re.compile("[0-9a-f]{16}")
UUID = re.compile("[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
ORDER = re.compile(f"orders/{UUID.pattern}")
"""An order's name."""
PACKAGE = re.compile(r"\b(?:[a-z][a-z0-9_]*\.)+(?=[A-Z])")
"""Of a service or an event: `shop.order.v1.` of `shop.order.v1.OrderPlaced` costs more room than it tells."""
