"""Progress reports inside a worker's output: one line each, begun by a record separator (RFC 7464), for a launcher."""

from pydantic import ValidationError

from internvl_trainer.contract.progress import ProgressReport

WANTED = "INTERNVL_LIVE"
"""Environment variable by which a launcher with a terminal asks its workers for such lines instead of log lines."""

_SEPARATOR = b"\x1e"


def record(report: ProgressReport) -> str:
    """A report as a line of its own."""
    return f"{_SEPARATOR.decode()}{report.model_dump_json()}\n"


def parse(line: bytes) -> ProgressReport | None:
    """The report that a line holds; None for any other line, which is then shown as it is."""
    if not line.startswith(_SEPARATOR):
        return None
    try:
        return ProgressReport.from_bytes(line[1:])
    except ValidationError:
        return None
