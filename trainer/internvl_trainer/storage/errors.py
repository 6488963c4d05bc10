"""What can go wrong with an object store.

Messages name the operation, the object and the store's error code. They never quote what the server or the HTTP
library said: such texts can hold endpoints with credentials, key ids or signed headers. Each error takes one message,
so that it travels between processes by pickle, and carries the exit code that a trainer ends with because of it.
"""

from typing import ClassVar

from internvl_trainer.contract.exit_codes import ExitCode


class StoreError(Exception):
    """Base of all faults of an object store."""

    exit_code: ClassVar[ExitCode] = ExitCode.STORE_UNAVAILABLE


class StoreUnavailableError(StoreError):
    """The store did not answer, or answered that it could not, in spite of retries. A later try may succeed."""


class StoreDeniedError(StoreError):
    """The store refused the credentials or the operation. Check the credential chain and the bucket's policy."""


class ObjectNotFoundError(StoreError):
    """The object, or the bucket, does not exist."""

    exit_code = ExitCode.INVALID_CHECKPOINT


class ObjectChangedError(StoreError):
    """The object is no longer the one that was asked for: somebody replaced it."""

    exit_code = ExitCode.INVALID_CONFIG


class AlreadyExistsError(StoreError):
    """`put_if_absent` found the object there already; nothing was written."""

    exit_code = ExitCode.INVALID_CHECKPOINT


class InvalidLocationError(StoreError, ValueError):
    """A URI or an endpoint that no store understands."""

    exit_code = ExitCode.INVALID_CONFIG
