"""Time, behind one name, so that decisions can be tested at any moment."""

from collections.abc import Callable
from datetime import UTC, datetime

Clock = Callable[[], datetime]
"""Tells the present moment as an aware datetime in UTC."""


def now() -> datetime:
    """The present moment in UTC, to whole seconds: Kubernetes stores times so, and equal statuses must stay equal."""
    return datetime.now(UTC).replace(microsecond=0)
