"""What a request to S3 is, and which fault it meets: pure, and the same in every run with the same seed."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from hashlib import sha256
from random import Random
from typing import Protocol, Self
from urllib.parse import parse_qsl, unquote


class Operation(StrEnum):
    """The operations that checkpoint code uses, by their names in the S3 API."""

    PUT_OBJECT = "PutObject"
    UPLOAD_PART = "UploadPart"
    CREATE_MULTIPART_UPLOAD = "CreateMultipartUpload"
    COMPLETE_MULTIPART_UPLOAD = "CompleteMultipartUpload"
    ABORT_MULTIPART_UPLOAD = "AbortMultipartUpload"
    GET_OBJECT = "GetObject"
    HEAD_OBJECT = "HeadObject"
    LIST_OBJECTS_V2 = "ListObjectsV2"
    LIST_MULTIPART_UPLOADS = "ListMultipartUploads"
    DELETE_OBJECT = "DeleteObject"
    DELETE_OBJECTS = "DeleteObjects"
    OTHER = "Other"
    """Anything else, as buckets and their settings; it meets no fault but in a script."""


class Fault(StrEnum):
    """What can go wrong between a client and the store. The order is the one in which a seeded plan deals them."""

    DROP_REQUEST = "drop-request"
    """The connection ends before the store has heard of the request."""
    DROP_ANSWER = "drop-answer"
    """The store does what it was asked, and the connection ends before it says so."""
    UNAVAILABLE = "unavailable"
    """503 SlowDown; the store has not heard of it."""
    INTERNAL = "internal"
    """500 InternalError; the store has not heard of it."""
    SLOW = "slow"
    """The request waits 50 to 300 ms before it goes on."""
    DUPLICATE = "duplicate"
    """The store gets the request twice, one after the other, and the client the second answer."""
    TRUNCATED_PART = "truncated-part"
    """The store gets the first half of the body, under the signature and checksums of all of it.

    S3 refuses that by either; SeaweedFS does not compare the signed digest with the body and looks at checksums alone.
    """
    TRUNCATED_STORED = "truncated-stored"
    """The store gets, and accepts, the first half of the body: signed anew, without checksums."""
    PRECONDITION_FAILED = "precondition-failed"
    """412 to a conditional write of which the store has not heard."""
    CONFLICT = "conflict"
    """409 ConditionalRequestConflict to a conditional write of which the store has not heard."""
    STALE_LIST = "stale-list"
    """The list leaves out the newest keys."""
    CORRUPT_READ = "corrupt-read"
    """One bit of the object that comes back is another."""
    TRUNCATED_READ = "truncated-read"
    """The answer promises the whole object, and the connection ends within it."""


_OF_BODIES = frozenset({Operation.PUT_OBJECT, Operation.UPLOAD_PART})
_OF_CONDITIONS = frozenset({Operation.PUT_OBJECT, Operation.COMPLETE_MULTIPART_UPLOAD})
# The last three sign URLs, which boto3 does in the old way for some regions.
_PLAIN_NAMES = frozenset({"partNumber", "versionId", "x-id", "AWSAccessKeyId", "Signature", "Expires"})


@dataclass(frozen=True)
class Call:
    """One request, as far as plans care.

    `key` is the prefix of a listing, and empty for other operations on a bucket. `size` counts the body's bytes as
    they were sent, and `encoded` says that these are chunks with signatures or trailers (aws-chunked).
    """

    operation: Operation
    key: str
    part: int | None = None
    range: str | None = None
    conditional: bool = False
    size: int = 0
    encoded: bool = False

    @classmethod
    def of(cls, method: str, target: str, headers: Mapping[str, str], size: int) -> Self:
        """The call that a request's method, target (`/bucket/key?query`), headers and size of body make.

        `headers` are looked up in lower case, or are a mapping that does not mind.
        """
        operation, key = classify(method, target)
        part = _query(target).get("partNumber", "")
        return cls(
            operation,
            key,
            part=int(part) if operation is Operation.UPLOAD_PART and part.isdecimal() else None,
            range=headers.get("range"),
            conditional="if-none-match" in headers or "if-match" in headers,
            size=size,
            encoded="aws-chunked" in headers.get("content-encoding", ""),
        )

    @property
    def identity(self) -> tuple[str, str, int | None, str | None]:
        """What tells calls apart whose order is left to threads: parts and ranges of one object run side by side."""
        return self.operation.value, self.key, self.part, self.range


def classify(method: str, target: str) -> tuple[Operation, str]:
    """The operation of a request in path style, and its key or, of a listing, its prefix."""
    _, _, path = target.partition("?")[0].removeprefix("/").partition("/")
    query = _query(target)
    if path:
        return _of_object(method, query), unquote(path)
    operation = _of_bucket(method, query)
    return operation, query.get("prefix", "")


def fits(fault: Fault, call: Call) -> bool:
    """Whether a call can meet a fault."""
    match fault:
        case Fault.TRUNCATED_PART:
            return call.operation in _OF_BODIES and call.size > 0
        case Fault.TRUNCATED_STORED:
            return call.operation in _OF_BODIES and call.size > 0 and not call.encoded
        case Fault.PRECONDITION_FAILED | Fault.CONFLICT:
            return call.operation in _OF_CONDITIONS and call.conditional
        case Fault.STALE_LIST:
            return call.operation is Operation.LIST_OBJECTS_V2
        case Fault.CORRUPT_READ | Fault.TRUNCATED_READ:
            return call.operation is Operation.GET_OBJECT
        case _:
            return True


@dataclass(frozen=True)
class Strike:
    """A fault that is to happen; `where` in [0, 1) is how long, at which bit or after which byte."""

    fault: Fault
    where: float = 0.5


class Plan(Protocol):
    """Decides what happens to each call, in the order in which they come. One plan serves one proxy."""

    @property
    def faults(self) -> frozenset[Fault]:
        """All that may happen."""

    def decide(self, call: Call) -> Strike | None:
        """What happens to this call; None: nothing. Counts the call."""


class FaultPlan:
    """Faults at random, each with its rate among the calls that it fits.

    What a call meets follows from the seed, the call's identity (operation, key, part, range) and how often that came
    before, and not from what runs beside it: a run with the same keys meets the same faults.

    Args:
        seed: of everything that is random.
        rates: the probability of each fault, 0 to 1; what is not named does not happen.
        limit: how many faults calls of one identity meet at most, so that patient clients come through. None: any.

    Raises:
        ValueError: a rate is negative, or those of faults that can meet the same call add up to more than 1.
    """

    def __init__(self, seed: int, rates: Mapping[Fault, float], limit: int | None = None) -> None:
        for operation in Operation:
            call = Call(operation, "", conditional=True, size=1)
            fitting = {fault.value: rate for fault, rate in rates.items() if fits(fault, call)}
            if min(fitting.values(), default=0) < 0 or sum(fitting.values()) > 1 + 1e-9:
                raise ValueError(f"{operation} has rates {fitting}; give rates from 0 on that add up to 1 at most")
        self._seed, self._rates, self._limit = seed, rates, limit
        self._seen: Counter[tuple[object, ...]] = Counter()
        self._struck: Counter[tuple[object, ...]] = Counter()

    @property
    def faults(self) -> frozenset[Fault]:
        """See `Plan.faults`."""
        return frozenset(fault for fault, rate in self._rates.items() if rate > 0)

    def decide(self, call: Call) -> Strike | None:
        """See `Plan.decide`."""
        self._seen[call.identity] += 1
        if call.operation is Operation.OTHER:
            return None
        if self._limit is not None and self._struck[call.identity] >= self._limit:
            return None
        strike = self._drawn(call, self._seen[call.identity])
        self._struck[call.identity] += strike is not None
        return strike

    def _drawn(self, call: Call, time: int) -> Strike | None:
        random = Random(sha256(repr((self._seed, *call.identity, time)).encode()).digest())
        point, where = random.random(), random.random()
        for fault in Fault:
            point -= self._rates.get(fault, 0) if fits(fault, call) else 0
            if point < 0:
                return Strike(fault, where)
        return None


type Predicate = Callable[[Call], bool]


def calls(operation: Operation | None = None, key: str = "") -> Predicate:
    """The calls of an operation (None: of any) whose key or prefix contains `key`."""
    return lambda call: operation in (None, call.operation) and key in call.key


class ScriptedPlan:
    """Faults told one by one: `(which calls, the how-manieth of these from 1 on, or None for each, what happens)`.

    Where several entries name the same call, the first of them happens. A `Strike` in the place of a `Fault` also
    says where.
    """

    def __init__(self, script: Sequence[tuple[Predicate, int | None, Fault | Strike]] = ()) -> None:
        strikes = [strike if isinstance(strike, Strike) else Strike(strike) for _, _, strike in script]
        self._script = [(predicate, nth, strike) for (predicate, nth, _), strike in zip(script, strikes, strict=True)]
        self._matched = [0] * len(script)
        self._happened = [False] * len(script)

    @property
    def faults(self) -> frozenset[Fault]:
        """See `Plan.faults`."""
        return frozenset(strike.fault for _, _, strike in self._script)

    @property
    def pending(self) -> list[Fault]:
        """What has not happened, not even once. A story in which its fault does not happen proves nothing."""
        return [entry[2].fault for entry, done in zip(self._script, self._happened, strict=True) if not done]

    def decide(self, call: Call) -> Strike | None:
        """See `Plan.decide`.

        Raises:
            ValueError: the script has a fault for this call that does not fit it.
        """
        matches = [index for index, (predicate, _, _) in enumerate(self._script) if predicate(call)]
        for index in matches:
            self._matched[index] += 1
        for index in matches:
            _, nth, strike = self._script[index]
            if nth in (None, self._matched[index]):
                if not fits(strike.fault, call):
                    raise ValueError(f"the script has {strike.fault} for a call that it does not fit: {call}")
                self._happened[index] = True
                return strike
        return None


def _query(target: str) -> dict[str, str]:
    return dict(parse_qsl(target.partition("?")[2], keep_blank_values=True))


def _of_object(method: str, query: Mapping[str, str]) -> Operation:
    if "uploadId" in query:
        of_upload = {
            "PUT": Operation.UPLOAD_PART,
            "POST": Operation.COMPLETE_MULTIPART_UPLOAD,
            "DELETE": Operation.ABORT_MULTIPART_UPLOAD,
        }
        return of_upload.get(method, Operation.OTHER)
    if method == "POST" and "uploads" in query:
        return Operation.CREATE_MULTIPART_UPLOAD
    # What is left in a query names a part of the object's settings, as its tags or its access list.
    if not all(name in _PLAIN_NAMES or name.lower().startswith(("response-", "x-amz-")) for name in query):
        return Operation.OTHER
    of_object = {
        "PUT": Operation.PUT_OBJECT,
        "GET": Operation.GET_OBJECT,
        "HEAD": Operation.HEAD_OBJECT,
        "DELETE": Operation.DELETE_OBJECT,
    }
    return of_object.get(method, Operation.OTHER)


def _of_bucket(method: str, query: Mapping[str, str]) -> Operation:
    if method == "GET" and query.get("list-type") == "2":
        return Operation.LIST_OBJECTS_V2
    if method == "GET" and "uploads" in query:
        return Operation.LIST_MULTIPART_UPLOADS
    if method == "POST" and "delete" in query:
        return Operation.DELETE_OBJECTS
    return Operation.OTHER
