"""What all tests share: hypothesis without deadlines, one thread per process on small machines, no test unmarked."""

import os
import signal

import pytest
from hypothesis import settings

os.environ.setdefault("OMP_NUM_THREADS", "1")

settings.register_profile("default", deadline=None)
settings.load_profile("default")

# A shell starts what runs in the background with Ctrl-C ignored, and commands that tests interrupt would inherit it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

KINDS = ("unit", "integration", "e2e")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Every test says what it needs, or `make unit` would pass it over unseen."""
    unmarked = sorted({str(item.path) for item in items if not any(item.get_closest_marker(kind) for kind in KINDS)})
    if unmarked:
        raise pytest.UsageError(f"tests without one of the markers {', '.join(KINDS)}: {', '.join(unmarked)}")
