"""From a bucket to a bucket and back, through a real S3 server; and the operator's own eye on what was imported."""

import weakref
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from hack.cluster.object_store import ObjectStore as S3Server
from internvl_operator.adapters.gate import Gate
from internvl_operator.adapters.object_store import ObjectStores, StoreAddress
from internvl_operator.api.reasons import Reason
from internvl_operator.config import GateSettings
from internvl_operator.domain.state import SourceReady
from internvl_trainer.checkpoint.errors import CheckpointConflictError
from internvl_trainer.checkpoint.torch_dist_reader import TorchDistReader
from internvl_trainer.checkpoint.verify import open_any, open_source
from internvl_trainer.checkpoint.weights import Weight, commit_weights, opened_weights
from internvl_trainer.contract import catalog
from internvl_trainer.contract.base import Component
from internvl_trainer.contract.manifest import Manifest
from internvl_trainer.convert.exporting import export
from internvl_trainer.convert.exporting import plan as export_plan
from internvl_trainer.convert.folder import HuggingFaceFolder
from internvl_trainer.convert.importing import ImportPlan, whole_folder
from internvl_trainer.convert.mapping import Layout
from internvl_trainer.storage import ObjectStore, StoreUnavailableError, open_store
from tests.integration.convert import folders
from tests.integration.convert.commands import ref_of, run_export, run_import

type Load = Callable[[], torch.Tensor]

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]


@pytest.fixture
def store(s3_server: S3Server) -> ObjectStore:
    return open_store(endpoint_url=s3_server.endpoint)


@pytest.fixture
def bucket(request: pytest.FixtureRequest) -> str:
    """A folder of its own for each test."""
    return f"s3://checkpoints/convert/{request.node.name}"


def _plan(folder: Path, store: ObjectStore) -> ImportPlan:
    source = folders.write_native(folder / "source", folders.geometry("300m", "qwen2.5"))
    return whole_folder(HuggingFaceFolder(str(source), store))


def _upload(folder: Path, uri: str, store: ObjectStore) -> str:
    for path in folder.iterdir():
        store.upload(path, f"{uri}/{path.name}")
    return uri


def test_a_model_goes_from_bucket_to_bucket_and_back(
    s3_server: S3Server, store: ObjectStore, bucket: str, tmp_path: Path
) -> None:
    source = folders.write_native(tmp_path / "source", folders.geometry("6b", "internlm2.5"))
    endpoint = ("--endpoint-url", s3_server.endpoint)
    report = run_import(_upload(source, f"{bucket}/source", store), f"{bucket}/checkpoint", *endpoint)
    assert report["manifest"] == f"{bucket}/checkpoint/MANIFEST.json"
    run_export(f"{bucket}/checkpoint", tmp_path / "out", *endpoint)
    folders.assert_same_tensors(tmp_path / "out", folders.tensors_of(source))
    manifest = Manifest.from_bytes(store.read(report["manifest"]))
    assert all(stored.etag for stored in manifest.objects)
    assert manifest.imported[Component.VISION].uri == f"{bucket}/source"


async def test_the_operator_starts_a_run_from_an_imported_vision_encoder(
    s3_server: S3Server, bucket: str, tmp_path: Path
) -> None:
    vit = folders.write_bare(tmp_path / "vit", catalog.get("tiny-8b-like"), Component.VISION)
    report = run_import(vit, f"{bucket}/vit", "--endpoint-url", s3_server.endpoint)
    stores = ObjectStores(GateSettings())
    answer = await Gate(stores, full_digest_bytes=2**30).source(
        StoreAddress(s3_server.endpoint), Component.VISION, report["manifest"],
        waiting=Reason.WAITING_FOR_WEIGHTS, invalid=Reason.WEIGHTS_INVALID,
    )  # fmt: skip
    stores.close()
    assert answer == SourceReady(ref_of(report), run="huggingface/tiny-8b-like", stage="import")


def test_shards_are_uploaded_and_removed_while_others_are_written(
    store: ObjectStore, bucket: str, tmp_path: Path
) -> None:
    plan = _plan(tmp_path, store)
    held = []

    def count(values: torch.Tensor) -> None:
        held.append(len(list(tmp_path.glob("scratch/*/*.distcp"))))

    (tmp_path / "scratch").mkdir()
    done = commit_weights(
        plan.weights, plan.provenance, f"{bucket}/small", store,
        scratch=tmp_path / "scratch", shard_bytes=20_000, written=count,
    )  # fmt: skip
    assert len(done.manifest.objects) > 10
    assert max(held) <= 3, "the one that is written, the one on its way, and the one that waits for it"
    assert list((tmp_path / "scratch").iterdir()) == []
    source = open_source(store, Component.VISION, done.ref)
    wanted = [weight.tensor for weight in plan.weights]
    with opened_weights(source, store, scratch=tmp_path / "scratch") as reader:
        for weight, (tensor, values) in zip(plan.weights, reader.stream(wanted), strict=True):
            assert torch.equal(values, weight.load()), tensor.key
            assert len(list(tmp_path.glob("scratch/*/*.distcp"))) <= 2


def test_one_tensor_is_in_memory_at_a_time(store: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = _plan(tmp_path, store)
    seen: list[weakref.ref[torch.Tensor]] = []

    def watched(load: Load) -> torch.Tensor:
        assert not [tensor for tensor in seen if tensor() is not None], "all before it are gone"
        values = load()
        seen.append(weakref.ref(values))
        return values

    watching = [Weight(weight.tensor, partial(watched, weight.load)) for weight in plan.weights]
    done = commit_weights(watching, plan.provenance, f"{tmp_path}/checkpoint", store)
    assert len(seen) == len(plan.weights)

    seen.clear()
    exporting = export_plan(open_any(store, done.ref.uri), Layout.NATIVE)

    load_part = TorchDistReader._load

    def watched_part(self: TorchDistReader, part: Any) -> torch.Tensor:
        assert not [tensor for tensor in seen if tensor() is not None], "all before it are gone"
        return load_part(self, part)

    monkeypatch.setattr(TorchDistReader, "_load", watched_part)
    export(exporting, store, tmp_path / "out", written=lambda values: seen.append(weakref.ref(values)))
    assert len(seen) == len(plan.weights)


def test_an_import_that_breaks_off_leaves_no_checkpoint_and_can_be_repeated(
    store: ObjectStore, bucket: str, tmp_path: Path
) -> None:
    plan = _plan(tmp_path, store)

    def breaks() -> torch.Tensor:
        raise StoreUnavailableError("the source went away")

    broken = [*plan.weights[:20], Weight(plan.weights[20].tensor, breaks)]
    with pytest.raises(StoreUnavailableError, match="went away"):
        commit_weights(broken, plan.provenance, bucket, store, shard_bytes=20_000)
    left = [info.uri.rsplit("/", 1)[-1] for info in store.list(f"{bucket}/")]
    assert left
    assert "MANIFEST.json" not in left
    assert ".metadata" not in left
    commit_weights(plan.weights, plan.provenance, bucket, store)
    with pytest.raises(CheckpointConflictError, match="holds a checkpoint already"):
        commit_weights(plan.weights, plan.provenance, bucket, store)
