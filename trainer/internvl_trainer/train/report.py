"""Telling the operator how far training has come, without ever holding training up."""

import logging
import threading
import time
from pathlib import Path
from typing import Self
from urllib.parse import urlsplit

import urllib3
from urllib3.exceptions import HTTPError, MaxRetryError

from internvl_trainer.contract.exit_codes import ExitCode
from internvl_trainer.contract.job import ProgressConfig
from internvl_trainer.contract.progress import ProgressReport

logger = logging.getLogger(__name__)

CONNECT_SECONDS = 3.0
READ_SECONDS = 5.0
FLUSH_SECONDS = 5.0


class InsecureProgressUrlError(ValueError):
    """The config asks for a bearer token to be sent without TLS."""

    exit_code = ExitCode.INVALID_CONFIG


class ProgressReporter:
    """Posts the newest report every `config.interval_seconds` from a background thread.

    A report that a newer one overtakes is dropped. A failed post is not repeated: the next report says more. Failures
    are logged when they begin, when their cause changes and when they end. Nothing raises after the constructor.

    Args:
        config: where to; None makes a reporter that does nothing, for runs without an operator.

    Raises:
        InsecureProgressUrlError: a token is to be sent to a URL that is not https.
    """

    def __init__(self, config: ProgressConfig | None) -> None:
        self._config = config
        self._newest: ProgressReport | None = None
        self._wake = threading.Condition()
        self._deadline: float | None = None
        self._fault: str | None = None
        if config is None:
            return
        if config.token_file is not None and urlsplit(config.url).scheme != "https":
            raise InsecureProgressUrlError(
                f"progress.url is {config.url!r}; a bearer token is sent over https only: use https or no token_file"
            )
        # A daemon: a connection that hangs must not keep the process alive.
        self._thread = threading.Thread(target=self._run, args=(config,), name="progress", daemon=True)
        self._thread.start()

    def submit(self, report: ProgressReport) -> None:
        """Hand over a report; returns at once."""
        with self._wake:
            self._newest = report
            self._wake.notify()

    def close(self, seconds: float = FLUSH_SECONDS) -> None:
        """Post what is still unposted, at once, and end; returns after `seconds` at the latest. May be called twice."""
        if self._config is None:
            return
        with self._wake:
            if self._deadline is None:
                self._deadline = time.monotonic() + seconds
            self._wake.notify()
        self._thread.join(seconds)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _run(self, config: ProgressConfig) -> None:
        while True:
            with self._wake:
                self._wake.wait_for(lambda: self._newest is not None or self._deadline is not None)
                report, self._newest, deadline = self._newest, None, self._deadline
            if report is not None:
                left = None if deadline is None else max(0.1, deadline - time.monotonic())
                self._note(_post(config, report, left))
            with self._wake:
                # Reports that come meanwhile replace each other; only the end cuts the pause short.
                self._wake.wait_for(lambda: self._deadline is not None, config.interval_seconds)
                if self._deadline is not None and self._newest is None:
                    return

    def _note(self, fault: str | None) -> None:
        if fault == self._fault:
            return
        if fault is None:
            logger.info("progress reports reach the operator again")
        else:
            logger.warning("progress reports do not reach the operator: %s; training goes on", fault)
        self._fault = fault


def _post(config: ProgressConfig, report: ProgressReport, seconds: float | None) -> str | None:
    """One attempt; None, or the cause of failure in words that hold no token.

    Token and CA are read afresh each time: both are rotated under a running pod.
    """
    timeout = urllib3.Timeout(total=seconds, connect=CONNECT_SECONDS, read=READ_SECONDS)
    headers = {"Content-Type": "application/json"}
    try:
        if config.token_file is not None:
            headers["Authorization"] = f"Bearer {Path(config.token_file).read_text().strip()}"
        with urllib3.PoolManager(num_pools=1, ca_certs=config.ca_file) as pool:
            # No redirects: they would carry the token elsewhere.
            answer = pool.request(
                "POST",
                config.url,
                body=report.to_bytes(),
                headers=headers,
                timeout=timeout,
                retries=False,
                redirect=False,
            )
    except (HTTPError, OSError, ValueError) as error:
        return _cause(error)
    return None if 200 <= answer.status < 300 else f"HTTP {answer.status}"


def _cause(error: Exception) -> str:
    """The kind of the innermost known fault; its text could quote a header."""
    inner = error.reason if isinstance(error, MaxRetryError) and error.reason else error
    missing = f" {inner.filename}" if isinstance(inner, OSError) and inner.filename else ""
    return type(inner).__name__ + missing
