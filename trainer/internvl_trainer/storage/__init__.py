"""The object store: one small interface over S3 and over folders."""

from internvl_trainer.storage.errors import (
    AlreadyExistsError,
    InvalidLocationError,
    ObjectChangedError,
    ObjectNotFoundError,
    StoreDeniedError,
    StoreError,
    StoreUnavailableError,
)
from internvl_trainer.storage.store import ObjectInfo, ObjectStore, open_store

__all__ = [
    "AlreadyExistsError",
    "InvalidLocationError",
    "ObjectChangedError",
    "ObjectInfo",
    "ObjectNotFoundError",
    "ObjectStore",
    "StoreDeniedError",
    "StoreError",
    "StoreUnavailableError",
    "open_store",
]
