"""How long Hypothesis looks for a call that breaks the shop.

In `make test` it makes the same calls each time, few of them. In `make fuzz` (SHOPMESH_FUZZ_MINUTES) each test goes on
by chance for its share of the time, and what it finds is tried first the next time (.hypothesis).
"""

import os
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis.database import DirectoryBasedExampleDatabase

MINUTES = float(os.environ["SHOPMESH_FUZZ_MINUTES"]) if "SHOPMESH_FUZZ_MINUTES" in os.environ else None

_FOUND = Path(__file__).parents[2] / ".hypothesis" / "examples"


def searching(examples: int) -> settings:
    """So many examples; four times as many at a time in the long form."""
    return settings(
        max_examples=examples * 4 if MINUTES else examples,
        derandomize=not MINUTES,
        database=DirectoryBasedExampleDatabase(_FOUND) if MINUTES else None,
        print_blob=True,
        # The shop takes the time that it takes, and its names are there for the whole search.
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
