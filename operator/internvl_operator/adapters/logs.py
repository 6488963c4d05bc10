"""Log lines for machines or for people, always on standard error."""

import json
import logging
import logging.config
import time
from typing import Literal

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time (RFC 3339, UTC), level, logger, message, error, and every scalar `extra`."""

    def format(self, record: logging.LogRecord) -> str:
        """Render a record on one line."""
        seconds = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        line: dict[str, object] = {
            "time": f"{seconds}.{int(record.msecs):03d}Z",
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        # kopf puts whole objects into its records: only plain values are worth a field.
        extra = {name: value for name, value in vars(record).items() if name not in _STANDARD}
        line |= {name: value for name, value in extra.items() if isinstance(value, str | int | float | bool)}
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)


def configure(style: Literal["json", "plain"], level: str) -> None:
    """Send all logging of the process to standard error, in one style."""
    # Below INFO these print request bodies and headers, tokens and keys included.
    verbose = ("botocore", "boto3", "urllib3", "aiohttp.access", "asyncio")
    logging.config.dictConfig(
        {
            "version": 1,
            "disable_existing_loggers": False,
            "formatters": {
                "json": {"()": JsonFormatter},
                "plain": {"format": "%(asctime)s %(levelname)-7s %(name)s: %(message)s"},
            },
            "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": style}},
            "root": {"level": level, "handlers": ["stderr"]},
            "loggers": {
                **{name: {"level": "INFO" if level == "DEBUG" else level} for name in verbose},
                "kopf": {"level": "WARNING" if level == "INFO" else level},
            },
        }
    )
