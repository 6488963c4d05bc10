"""The one error that the cluster's commands show to a person: a clear line, and where to read on."""

from pathlib import Path


class ClusterError(Exception):
    """Something that the user can act on: the message names the thing, its value, the limit and the remedy.

    `log` is the log file of the component that is to blame, if one is.
    """

    def __init__(self, message: str, log: Path | None = None) -> None:
        super().__init__(message)
        self.log = log
