"""Connections to S3 and its relatives through boto3, and its faults in our words."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import boto3
import botocore.session
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    NoCredentialsError,
    ParamValidationError,
    PartialCredentialsError,
    SSLError,
)
from botocore.loaders import Loader, create_loader
from tenacity import Retrying, retry_if_exception_type, stop_after_attempt, wait_random_exponential

from internvl_trainer.storage.errors import (
    InvalidLocationError,
    ObjectNotFoundError,
    StoreDeniedError,
    StoreError,
    StoreUnavailableError,
)

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

ATTEMPTS = 5
"""How often what broke off, or met another writer, is tried."""

LONGEST_KEY = 1024
"""Bytes of the longest name of an object; stores answer a longer one in ways of their own."""

TAKEN = frozenset({"412", "PreconditionFailed"})
RACE = frozenset({"409", "ConditionalRequestConflict"})
DAMAGED = frozenset(
    {"BadDigest", "IncompleteBody", "RequestTimeout", "XAmzContentChecksumMismatch", "XAmzContentSHA256Mismatch"}
)
_NOT_FOUND = frozenset({"404", "NoSuchKey", "NoSuchBucket", "NotFound"})
_DENIED = frozenset(
    {"401", "403", "AccessDenied", "ExpiredToken", "InvalidAccessKeyId", "InvalidToken", "SignatureDoesNotMatch"}
)


@dataclass(frozen=True)
class S3Options:
    """How to reach the store; credentials come from boto3's standard chain alone."""

    endpoint_url: str | None = None
    region: str | None = None
    path_style: bool = True
    ca_file: str | None = None

    def __post_init__(self) -> None:
        if self.ca_file is not None and not Path(self.ca_file).is_file():
            raise InvalidLocationError(
                f"the CA file {self.ca_file} of the S3 endpoint does not exist; mount it, or leave it out where the "
                "endpoint's certificate is signed by a public authority"
            )
        if self.endpoint_url is None:
            return
        parts = urlsplit(self.endpoint_url)
        if parts.username or parts.password:
            raise InvalidLocationError(
                "the S3 endpoint URL carries credentials; give them by the environment or a mounted credentials file"
            )
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise InvalidLocationError(f"S3 endpoint {self.endpoint_url!r} is no http:// or https:// URL")


class ConditionalRaceError(Exception):
    """Two conditional writes met; S3 asks both writers to try again."""


class StreamBrokenError(Exception):
    """The body of an answer ended early."""


class BodyDamagedError(Exception):
    """The store got other bytes than were sent, by their checksum or length; it has kept nothing."""


def make_client(options: S3Options, *, sign_bodies: bool = True) -> "S3Client":
    """A client of its own session: making clients from one shared session is not thread-safe.

    Args:
        options: how to reach the store.
        sign_bodies: whether requests over plain http are signed with their bodies' SHA-256, as the SDK does by itself.
    """
    s3: Any = {"addressing_style": "path" if options.path_style else "auto"}
    if not sign_bodies:
        s3["payload_signing_enabled"] = False
    config = Config(
        connect_timeout=5,
        read_timeout=60,
        retries={"mode": "standard", "total_max_attempts": 6},
        max_pool_connections=32,
        tcp_keepalive=True,
        s3=s3,
        # Newer SDKs add checksums of their own, in a form that several S3-compatible stores refuse; ours are enough.
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
    )
    session = botocore.session.get_session()
    session.register_component("data_loader", _models())
    return boto3.session.Session(botocore_session=session).client(
        "s3", endpoint_url=options.endpoint_url, region_name=options.region, verify=options.ca_file, config=config
    )


@lru_cache(maxsize=1)
def _models() -> Loader:
    """The SDK's descriptions of S3, parsed once per process: that takes a tenth of a second, a client takes little."""
    return create_loader()


def patiently[T](action: Callable[[], T], *on: type[Exception]) -> T:
    """Try again where `action` raises such an error."""
    retrying = Retrying(
        retry=retry_if_exception_type(on),
        stop=stop_after_attempt(ATTEMPTS),
        wait=wait_random_exponential(multiplier=0.1, max=5),
        reraise=True,
    )
    return retrying(action)


def split(location: str, *, key_required: bool = True) -> tuple[str, str]:
    """Bucket and key of `bucket/key`.

    Raises:
        InvalidLocationError: there is none, or the key is longer than S3 takes.
    """
    bucket, _, key = location.partition("/")
    if not bucket or (key_required and not key):
        raise InvalidLocationError(f"s3://{location} names no object; give s3://bucket/key")
    if (size := len(key.encode())) > LONGEST_KEY:
        raise InvalidLocationError(f"s3://{location[:100]}... has a key of {size} bytes; the limit is {LONGEST_KEY}")
    return bucket, key


@contextmanager
def damage_told() -> Iterator[None]:
    """Tell a body that was damaged on its way, which can be sent again, from all else that a store refuses."""
    try:
        yield
    except ClientError as error:
        if code_of(error) in DAMAGED:
            raise BodyDamagedError(code_of(error)) from None
        raise


def code_of(error: ClientError) -> str:
    """The store's own word for what is wrong."""
    return str(error.response.get("Error", {}).get("Code", "Unknown"))


@contextmanager
def translated(operation: str, location: str) -> Iterator[None]:
    """Turn the SDK's errors into ours, and leave their texts behind: see errors.py."""
    what = f"cannot {operation} s3://{location}"
    try:
        yield
    except StoreError:
        raise
    except ClientError as error:
        raise _from_answer(what, error) from None
    except (NoCredentialsError, PartialCredentialsError) as error:
        raise StoreDeniedError(
            f"{what}: {type(error).__name__}; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or mount credentials"
        ) from None
    except ParamValidationError:
        raise InvalidLocationError(f"{what}: this is no name that S3 knows") from None
    except ConditionalRaceError:
        raise StoreUnavailableError(f"{what}: conditional writes kept colliding, {ATTEMPTS} times") from None
    except BodyDamagedError as error:
        raise StoreUnavailableError(f"{what}: the store kept getting other bytes than were sent ({error})") from None
    except StreamBrokenError as error:
        raise StoreUnavailableError(f"{what}: the answer kept breaking off ({error})") from None
    except SSLError as error:
        raise StoreUnavailableError(
            f"{what}: no TLS connection{_at(error)}; if its certificate is signed by an authority of your own, name "
            "that one's certificate (storage.caConfigMap of a run, --ca-file of a command)"
        ) from None
    except BotoCoreError as error:
        raise StoreUnavailableError(f"{what}: {type(error).__name__}{_at(error)}, in spite of retries") from None


def _at(error: BotoCoreError) -> str:
    """The endpoint's host, where the error knows it: of the URL that it quotes nothing else is fit for a message."""
    host = urlsplit(str(error.kwargs.get("endpoint_url") or "")).netloc.rpartition("@")[2]
    return f" at {host}" if host else ""


def _from_answer(what: str, error: ClientError) -> StoreError:
    code = code_of(error)
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    text = f"{what}: the store answered {code} (HTTP {status})"
    if code in _NOT_FOUND:
        return ObjectNotFoundError(text)
    if code in _DENIED or status in {401, 403}:
        return StoreDeniedError(f"{text}; check the credentials and the bucket's policy")
    return StoreUnavailableError(text)
