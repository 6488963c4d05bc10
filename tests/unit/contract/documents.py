"""Hypothesis strategies for whole documents of the contract."""

from datetime import UTC

from hypothesis import settings
from hypothesis import strategies as st

from internvl_trainer.contract import catalog
from internvl_trainer.contract.base import Component, RunIdentity
from internvl_trainer.contract.data_position import DataPosition
from internvl_trainer.contract.manifest import (
    ComponentManifest,
    LineageEntry,
    LossSummary,
    Manifest,
    ManifestRef,
    ParallelLayout,
    StoredObject,
)

few = settings(max_examples=25)
"""For whole documents: drawing one costs as much as a hundred plain values."""

names = st.integers(0, 10**6).map(lambda number: f"name-{number}.x")
digests = st.integers(0, 2**256 - 1).map(lambda number: f"{number:064x}")
counts = st.integers(0, 2**53)
losses = st.floats(0, 1e6)
components = st.sampled_from(Component)
identities = st.builds(RunIdentity, uid=names, namespace=names, name=names)
refs = st.builds(ManifestRef, uri=names.map(lambda name: f"s3://bucket/{name}/MANIFEST.json"), sha256=digests)
keys = st.lists(names, min_size=1, max_size=2).map("/".join)
objects = st.builds(StoredObject, key=keys, size=counts, sha256=digests, etag=st.sampled_from(["", "e1", "e2-7"]))
lineages = st.lists(st.builds(LineageEntry, run=identities, stage=names, step=counts, manifest=refs), max_size=2).map(
    tuple
)
instants = st.datetimes(timezones=st.just(UTC))
steps = st.integers(0, 10_000)
sizes = st.integers(1, 64)

manifests = st.builds(
    Manifest,
    run=identities,
    stage=names,
    attempt=sizes,
    step=steps,
    total_steps=steps,
    tokens=counts,
    data=st.builds(
        DataPosition, packs=counts, epoch=counts, window=counts, taken=counts, samples=counts, skipped=counts
    ),
    created_at=instants,
    config_sha256=digests,
    model=st.sampled_from(list(catalog.MODELS.values())),
    layout=st.builds(ParallelLayout, tensor=sizes, pipeline=sizes, data=sizes),
    trainable=st.lists(components, unique=True).map(tuple),
    components=st.dictionaries(names, st.lists(names, max_size=3).map(tuple), max_size=3),
    objects=st.lists(objects, max_size=5, unique_by=lambda stored: stored.key).map(tuple),
    loss=st.builds(LossSummary, first=losses, last=losses, steps=steps),
    parents=st.dictionaries(components, refs, max_size=3),
    vision_lineage=lineages,
)

component_manifests = st.builds(
    ComponentManifest,
    component=components,
    source=refs,
    run=identities,
    stage=names,
    attempt=sizes,
    step=steps,
    created_at=instants,
    vision=st.sampled_from([model.vision for model in catalog.MODELS.values()]),
    tensors=st.lists(names, max_size=3).map(tuple),
    lineage=lineages,
)
