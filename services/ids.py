"""How the ids look that lines, spans and addresses of pages name."""

import re

TRACE_ID = re.compile("[0-9a-f]{32}")
SPAN_ID = re.compile("[0-9a-f]{16}")
UUID = re.compile("[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
ORDER = re.compile(f"orders/{UUID.pattern}")
"""An order's name."""
