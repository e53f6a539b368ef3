"""Shell: Python's collector of cycles, kept from holding up decisions.

It looks through all that was made since it last looked, and every so often through everything. With 10,000 models that
is a pause of 0.1 s and more, to find next to nothing: what the controller drops is hardly ever in a cycle.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

THRESHOLDS = (5_000, 4, 100)
"""New objects before they are looked through (700 by default: 200 times while a gateway takes in 10,000 models), how
often that before the middle-aged ones are too, and how often that before everything is.
"""


@contextmanager
def at_rest() -> Iterator[None]:
    """What is made in this block is looked for neither now nor later; what is made after it, rarely."""
    gc.disable()
    try:
        yield
        gc.freeze()
    finally:
        gc.set_threshold(*THRESHOLDS)
        gc.enable()
