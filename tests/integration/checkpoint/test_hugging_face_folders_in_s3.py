"""A Hugging Face folder in a bucket is read as one on disk is: headers first, then no byte that is not asked for."""

from pathlib import Path

import pytest
import torch

from hack.cluster.object_store import ObjectStore as S3Server
from internvl_trainer.convert import folder as folder_module
from internvl_trainer.convert import tables
from internvl_trainer.convert.folder import HuggingFaceFolder
from internvl_trainer.convert.mapping import Layout
from internvl_trainer.storage import ObjectStore
from internvl_trainer.storage.s3 import S3Options
from tests.unit.trainer.convert.models import MODELS, write

pytestmark = pytest.mark.integration

MODEL = MODELS[-1]


class CountingStore(ObjectStore):
    """Adds up what is fetched by ranges."""

    fetched = 0

    def read_range(self, uri: str, offset: int, length: int, *, etag: str = "") -> bytes:
        payload = super().read_range(uri, offset, length, etag=etag)
        self.fetched += len(payload)
        return payload


@pytest.mark.parametrize("part", [1000, 10**8], ids=["many requests", "one request"])
def test_a_folder_in_a_bucket(s3_server: S3Server, tmp_path: Path, part: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folder_module, "PART", part)
    ours = write(tmp_path / "hf", MODEL, Layout.NATIVE, dtype=torch.bfloat16, max_shard=60_000)
    uri = f"s3://checkpoints/{tmp_path.name}/hf"
    store = CountingStore(S3Options(endpoint_url=s3_server.endpoint))
    for path in (tmp_path / "hf").iterdir():
        store.upload(path, f"{uri}/{path.name}")

    folder = HuggingFaceFolder(uri, store)
    headers = store.fetched
    mappings = list(tables.mappings(MODEL, Layout.NATIVE))
    folder.check(mappings)
    assert folder.description.model(MODEL.name) == MODEL
    for mapping in mappings:
        before = store.fetched
        merged = folder.merged(mapping)
        assert torch.equal(merged, ours[mapping.tensor.key, mapping.tensor.layer])
        assert store.fetched - before == merged.nbytes
    shards = sum(path.stat().st_size for path in (tmp_path / "hf").glob("*.safetensors"))
    assert store.fetched == shards, "every byte of the shards once"
    assert headers < shards / 4
