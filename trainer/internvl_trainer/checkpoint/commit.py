"""The last act of a save: is everything there, and is it still ours to write? Then the manifest. Torch-free.

Nothing here trusts one answer of the store: an answer may be lost, late, or of a listing that is behind.
"""

from contextlib import suppress

from tenacity import Retrying, retry_if_exception_type, stop_after_attempt, wait_random_exponential

from internvl_trainer.checkpoint.errors import CheckpointConflictError, ReplacedAttemptError
from internvl_trainer.checkpoint.verify import observed_objects
from internvl_trainer.contract import gate
from internvl_trainer.contract.manifest import Manifest, ManifestRef
from internvl_trainer.storage import AlreadyExistsError, ObjectNotFoundError, ObjectStore, StoreUnavailableError

LOOKS = 5
"""How often a doubtful answer is asked for again."""


class _DoubtfulError(Exception):
    """The store says something that cannot be: that an object is there, and that it is not."""


def confirm(store: ObjectStore, uri: str, manifest: Manifest) -> None:
    """Make sure that the store has every object of a manifest that is about to be written to `uri`.

    Raises:
        StoreUnavailableError: it has not, though it said that it took them.
    """
    problems = gate.judge_objects(manifest, observed_objects(store, uri, manifest))
    if problems:
        told = "; ".join(map(str, problems[:3]))
        raise StoreUnavailableError(f"the store took all objects of {uri}, but does not have them as sent: {told}")


def check_not_replaced(store: ObjectStore, attempts_prefix: str, attempt: int) -> None:
    """Find out whether a later attempt has begun.

    This spares a useless checkpoint; that it never counts is the business of the fences.

    Raises:
        ReplacedAttemptError: it has.
    """
    names = (info.uri.rsplit("/", 1)[-1] for info in store.list(attempts_prefix))
    begun = [int(name[1:-5]) for name in names if name.endswith(".json") and name[1:-5].isdecimal()]
    if later := [other for other in begun if other > attempt]:
        raise ReplacedAttemptError(
            f"attempt {max(later)} of this stage has begun, so attempt {attempt} commits nothing more; end its pods"
        )


def put_manifest(store: ObjectStore, uri: str, payload: bytes) -> ManifestRef:
    """Write a manifest to a key where there is none: from now on the checkpoint exists.

    Raises:
        CheckpointConflictError: another manifest lies there.
        StoreError: the store did not answer.
    """
    if write_once(store, uri, payload) != payload:
        raise CheckpointConflictError(f"{uri} was committed by another process meanwhile; this attempt runs twice")
    return ManifestRef.to(uri, payload)


def write_once(store: ObjectStore, uri: str, payload: bytes) -> bytes:
    """Write a small document to a key where there is none, and make sure that it is there as it was written.

    Returns:
        what lies there: `payload`, or what somebody else had written before.

    Raises:
        StoreError: the store did not answer, or does not keep what it is given.
    """
    retrying = Retrying(
        retry=retry_if_exception_type(_DoubtfulError),
        stop=stop_after_attempt(LOOKS),
        wait=wait_random_exponential(multiplier=0.1, max=2),
        reraise=True,
    )
    try:
        return retrying(_write_once, store, uri, payload)
    except _DoubtfulError as error:
        raise StoreUnavailableError(f"cannot write {uri}: {error}, {LOOKS} times") from error


def write_over(store: ObjectStore, uri: str, payload: bytes) -> None:
    """Write a small document to a key of our own, over what is there, and make sure that it is there as written.

    Raises:
        StoreError: the store did not answer, or does not keep what it is given.
    """
    for _ in range(LOOKS):
        store.put(uri, payload)
        # One that is not found was not kept.
        with suppress(ObjectNotFoundError):
            if _settled(store, uri, payload) == payload:
                return
    raise StoreUnavailableError(f"cannot write {uri}: the store has something else than it was given, {LOOKS} times")


def _write_once(store: ObjectStore, uri: str, payload: bytes) -> bytes:
    # The answer to our own put may have been lost, and the put retried: then ours is the one that exists already.
    with suppress(AlreadyExistsError):
        store.put_if_absent(uri, payload)
    try:
        found = _settled(store, uri, payload)
    except ObjectNotFoundError as error:
        raise _DoubtfulError("the store says that it is there and that it is not") from error
    if found and found != payload and payload.startswith(found):
        # Nobody else writes the beginning of what we write: the store has taken a part for the whole.
        store.put(uri, payload)
        raise _DoubtfulError(f"the store kept {len(found)} of {len(payload)} bytes")
    return found


def _settled(store: ObjectStore, uri: str, hoped: bytes) -> bytes:
    """What lies at a key: as hoped, or the same twice in a row, since a single read may have been damaged."""
    before: bytes | None = None
    for _ in range(LOOKS):
        found = store.read(uri)
        if found in (hoped, before):
            break
        before = found
    return found
