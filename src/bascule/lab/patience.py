"""How much longer than usual a lab waits before it gives up: on a slow machine, such as an emulated one."""

from __future__ import annotations

import os
from contextlib import suppress

VARIABLE = "BASCULE_LAB_PATIENCE"


def patience() -> float:
    """The factor that the environment variable `BASCULE_LAB_PATIENCE` names; 1 without it, or where it is no number."""
    with suppress(ValueError):
        return max(1.0, float(os.environ.get(VARIABLE, "1")))
    return 1.0
