"""Pins: objects beside manifests that keep checkpoints from being removed."""

from datetime import UTC, datetime

from internvl_trainer.contract import gate, keys
from internvl_trainer.contract.pin import Pin
from internvl_trainer.storage import ObjectNotFoundError, ObjectStore


def read_pin(store: ObjectStore, manifest_uri: str) -> Pin | None:
    """The pin of a checkpoint; None where it has none. One that cannot be read pins all the same.

    Raises:
        StoreError: the store did not answer.
    """
    uri = keys.pin_uri(manifest_uri)
    try:
        pin = gate.parse(Pin, store.read(uri))
        if isinstance(pin, Pin):
            return pin
        return Pin(created_at=store.stat(uri).modified or datetime.now(UTC))
    except ObjectNotFoundError:
        return None


def pin(store: ObjectStore, manifest_uri: str, new: Pin) -> None:
    """Pin a checkpoint, in place of a pin that it has.

    Raises:
        StoreError: the store did not answer.
    """
    store.put(keys.pin_uri(manifest_uri), new.to_bytes())


def unpin(store: ObjectStore, manifest_uri: str) -> bool:
    """Take a checkpoint's pin away; whether it had one.

    Raises:
        StoreError: the store did not answer.
    """
    had = read_pin(store, manifest_uri) is not None
    store.delete(keys.pin_uri(manifest_uri))
    return had
