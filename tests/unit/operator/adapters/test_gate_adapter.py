"""The gate reads real files and answers in the words that `plan` decides by."""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from internvl_operator.adapters.gate import Gate
from internvl_operator.adapters.object_store import ObjectInfo, ObjectStores, StoreAddress
from internvl_operator.api.reasons import Reason
from internvl_operator.config import GateSettings
from internvl_operator.domain.state import (
    GateQuery,
    Invalid,
    NotThere,
    SourceInvalid,
    SourceReady,
    SourceResult,
    SourceWaiting,
    Unavailable,
    Verified,
)
from internvl_trainer.contract import keys
from internvl_trainer.contract.base import Component
from tests.unit.operator.adapters.conftest import RUN, STAGE, STEPS, Checkpoint, Commit, publish_component

pytestmark = pytest.mark.unit

HERE = StoreAddress()


@pytest.fixture
def stores() -> Iterator[ObjectStores]:
    stores = ObjectStores(GateSettings(threads=2))
    yield stores
    stores.close()


@pytest.fixture
def gate(stores: ObjectStores) -> Gate:
    return Gate(stores, full_digest_bytes=1024)


def final(checkpoint: Checkpoint, *, attempt: int = 1, publish: tuple[Component, ...] = ()) -> GateQuery:
    prefix = keys.stage_prefix(checkpoint.storage_uri, RUN.uid, STAGE)
    return GateQuery(STAGE, attempt, RUN.uid, STEPS, prefix, publish)


async def source(gate: Gate, uri: str, sha256: str | None = None) -> SourceResult:
    return await gate.source(
        HERE, Component.VISION, uri,
        waiting=Reason.WAITING_FOR_WEIGHTS, invalid=Reason.WEIGHTS_INVALID, sha256=sha256,
    )  # fmt: skip


async def test_a_whole_final_checkpoint_is_verified(gate: Gate, commit: Commit) -> None:
    checkpoint = commit()
    answer = await gate.final_checkpoint(HERE, final(checkpoint))
    assert answer == Verified(checkpoint.ref, STEPS, checkpoint.manifest.loss)


async def test_before_the_manifest_is_written_nothing_is_there(gate: Gate, commit: Commit) -> None:
    checkpoint = commit(step=STEPS - 10)
    answer = await gate.final_checkpoint(HERE, final(checkpoint))
    assert isinstance(answer, NotThere)
    assert answer.missing == f"the final manifest of step {STEPS} by attempt 1 below {final(checkpoint).prefix}"


async def test_what_a_replaced_attempt_commits_late_ends_no_stage(gate: Gate, commit: Commit) -> None:
    second = commit(attempt=2, step=STEPS - 10)
    late = commit(attempt=1)
    answer = await gate.final_checkpoint(HERE, final(late, attempt=2))
    assert isinstance(answer, NotThere)
    assert answer.missing == (
        f"the final manifest of step {STEPS} by attempt 2 below {final(second).prefix} "
        "(that of attempt 1 was replaced and does not count)"
    )


async def test_nor_does_it_where_the_successor_is_done_though_it_came_last(gate: Gate, commit: Commit) -> None:
    second = commit(attempt=2)
    commit(attempt=1)
    answer = await gate.final_checkpoint(HERE, final(second, attempt=2))
    assert isinstance(answer, Verified)
    assert answer.ref == second.ref


async def test_of_a_stage_that_may_end_early_the_attempts_own_end_counts(gate: Gate, commit: Commit) -> None:
    commit(attempt=1, step=STEPS - 5, total_steps=STEPS - 5)
    query = dataclasses.replace(final(commit(attempt=2, step=STEPS - 15), attempt=2), may_end_early=True)
    answer = await gate.final_checkpoint(HERE, query)
    assert isinstance(answer, NotThere)
    assert "by attempt 2" in answer.missing
    assert f"its newest is of step {STEPS - 15}" in answer.missing

    own = commit(attempt=2, step=STEPS - 10, total_steps=STEPS - 10)
    answer = await gate.final_checkpoint(HERE, query)
    assert isinstance(answer, Verified)
    assert answer.ref == own.ref


async def test_a_stage_that_a_limit_on_tokens_ended_is_taken_at_the_step_that_calls_itself_final(
    gate: Gate, commit: Commit
) -> None:
    commit(step=STEPS - 20)
    last = commit(step=STEPS - 10, total_steps=STEPS - 10)
    query = dataclasses.replace(final(last), may_end_early=True)
    answer = await gate.final_checkpoint(HERE, query)
    assert isinstance(answer, Verified)
    assert (answer.ref, answer.step) == (last.ref, STEPS - 10)
    assert isinstance(await gate.final_checkpoint(HERE, final(last)), NotThere), "without a limit the steps count"


async def test_a_stage_that_may_end_early_has_not_ended_where_its_newest_checkpoint_is_not_final(
    gate: Gate, commit: Commit
) -> None:
    checkpoint = commit(step=STEPS - 10)
    answer = await gate.final_checkpoint(HERE, dataclasses.replace(final(checkpoint), may_end_early=True))
    assert isinstance(answer, NotThere)
    assert f"step {STEPS - 10}" in answer.missing


async def test_earlier_and_later_attempts_are_not_ours(gate: Gate, commit: Commit) -> None:
    commit(attempt=1)
    second = commit(attempt=2)
    commit(attempt=3)
    answer = await gate.final_checkpoint(HERE, final(second, attempt=2))
    assert isinstance(answer, Verified)
    assert answer.ref.uri == second.uri


async def test_a_lost_object_is_named(gate: Gate, commit: Commit) -> None:
    checkpoint = commit()
    (checkpoint.folder / "shard-1.distcp").unlink()
    answer = await gate.final_checkpoint(HERE, final(checkpoint))
    assert isinstance(answer, Invalid)
    assert "shard-1.distcp" in answer.problems[0]


class FlakyStores(ObjectStores):
    """What the first `bad` reads of objects bring is damaged on the way; listings show what `stale` makes of them."""

    bad = 0
    looks = 0

    @staticmethod
    def stale(listing: dict[str, ObjectInfo]) -> dict[str, ObjectInfo]:
        return listing

    async def read(self, *place: Any, **options: Any) -> bytes:
        payload = bytearray(await super().read(*place, **options))
        payload[len(payload) // 2] ^= 1 if self._is_bad() else 0
        return bytes(payload)

    async def sha256(self, *place: Any, block_bytes: int = 0) -> str:
        return "f" * 64 if self._is_bad() else await super().sha256(*place)

    async def list(self, *place: Any) -> dict[str, ObjectInfo]:
        return self.stale(await super().list(*place))

    async def stat(self, *place: Any) -> ObjectInfo:
        self.looks += 1
        return await super().stat(*place)

    def _is_bad(self) -> bool:
        self.bad -= 1
        return self.bad >= 0


@pytest.fixture
def flaky() -> Iterator[FlakyStores]:
    stores = FlakyStores(GateSettings(threads=2))
    yield stores
    stores.close()


@pytest.mark.parametrize("damaged", [1, 2])
async def test_a_manifest_that_was_damaged_on_the_way_is_read_again(
    flaky: FlakyStores, commit: Commit, damaged: int
) -> None:
    checkpoint = commit(publish=(Component.VISION,))
    flaky.bad = damaged
    gate = Gate(flaky, full_digest_bytes=1024)
    answer = await gate.final_checkpoint(HERE, final(checkpoint, publish=(Component.VISION,)))
    assert isinstance(answer, Verified)
    assert answer.ref == checkpoint.ref


async def test_one_that_stays_damaged_is_refused(flaky: FlakyStores, commit: Commit) -> None:
    flaky.bad = 3
    answer = await Gate(flaky, full_digest_bytes=0).final_checkpoint(HERE, final(commit()))
    assert isinstance(answer, Invalid)
    assert "does not parse" in answer.problems[0]


async def test_a_shard_that_was_damaged_on_the_way_is_read_again(flaky: FlakyStores, commit: Commit) -> None:
    checkpoint = commit()
    flaky.bad = -1

    async def read_well(*place: Any, **options: Any) -> bytes:
        payload = await ObjectStores.read(flaky, *place, **options)
        flaky.bad = 2
        return payload

    flaky.read = read_well  # type: ignore[method-assign]
    assert isinstance(await Gate(flaky, full_digest_bytes=1024).final_checkpoint(HERE, final(checkpoint)), Verified)


async def test_a_source_that_was_damaged_on_the_way_is_read_again(flaky: FlakyStores, commit: Commit) -> None:
    checkpoint = commit()
    flaky.bad = 2
    assert isinstance(await source(Gate(flaky, full_digest_bytes=0), checkpoint.uri), SourceReady)
    flaky.bad = 2
    ready = await source(Gate(flaky, full_digest_bytes=0), checkpoint.uri, sha256=checkpoint.ref.sha256)
    assert isinstance(ready, SourceReady)


@pytest.mark.parametrize(
    "behind",
    [
        pytest.param(lambda name, info: None, id="not there yet"),
        pytest.param(lambda name, info: info._replace(size=1), id="of another size"),
        pytest.param(lambda name, info: info._replace(etag="of-before"), id="of another ETag"),
    ],
)
async def test_where_the_listing_is_behind_the_object_itself_is_looked_at(
    flaky: FlakyStores, commit: Commit, behind: Callable[[str, ObjectInfo], ObjectInfo | None]
) -> None:
    checkpoint = commit(etag="as-written")
    stored = {name: behind(name, info) for name, info in (await flaky.list(HERE, final(checkpoint).prefix)).items()}
    manifest = keys.MANIFEST_NAME
    flaky.stale = lambda listing: {  # type: ignore[method-assign]
        name: seen for name, info in listing.items() if (seen := info if name.endswith(manifest) else stored[name])
    }
    answer = await Gate(flaky, full_digest_bytes=1024).final_checkpoint(HERE, final(checkpoint))
    assert isinstance(answer, Verified)
    assert flaky.looks == 2, "one look at each shard"


async def test_what_is_listed_as_written_is_not_looked_at_one_by_one(flaky: FlakyStores, commit: Commit) -> None:
    assert isinstance(await Gate(flaky, full_digest_bytes=1024).final_checkpoint(HERE, final(commit())), Verified)
    assert flaky.looks == 0


async def test_what_is_listed_and_gone_is_missing(flaky: FlakyStores, commit: Commit) -> None:
    checkpoint = commit()
    name = f"{checkpoint.folder.parent.name}/{checkpoint.folder.name}/shard-1.distcp"
    (checkpoint.folder / "shard-1.distcp").unlink()
    flaky.stale = lambda listing: listing | {name: ObjectInfo(1, "")}  # type: ignore[method-assign]
    answer = await Gate(flaky, full_digest_bytes=0).final_checkpoint(HERE, final(checkpoint))
    assert isinstance(answer, Invalid)
    assert answer.problems[0].startswith("object shard-1.distcp")
    assert answer.problems[0].endswith("is missing")


async def test_changed_bytes_of_the_same_length_are_found(gate: Gate, commit: Commit) -> None:
    checkpoint = commit()
    shard = checkpoint.folder / "shard-0.distcp"
    shard.write_bytes(bytes(len(shard.read_bytes())))
    answer = await gate.final_checkpoint(HERE, final(checkpoint))
    assert isinstance(answer, Invalid)
    assert "sha256" in answer.problems[0]


async def test_a_checkpoint_above_the_limit_is_not_read_whole(stores: ObjectStores, commit: Commit) -> None:
    checkpoint = commit()
    shard = checkpoint.folder / "shard-0.distcp"
    shard.write_bytes(bytes(len(shard.read_bytes())))
    gate = Gate(stores, full_digest_bytes=0)
    assert isinstance(await gate.final_checkpoint(HERE, final(checkpoint)), Verified)


async def test_what_a_stage_publishes_is_verified_with_it(gate: Gate, commit: Commit) -> None:
    checkpoint = commit(publish=(Component.VISION,))
    answer = await gate.final_checkpoint(HERE, final(checkpoint, publish=(Component.VISION,)))
    assert isinstance(answer, Verified)
    assert answer.published[Component.VISION].uri.endswith("published/a1/vision.json")


async def test_a_component_that_is_not_published_yet_is_not_there(gate: Gate, commit: Commit) -> None:
    answer = await gate.final_checkpoint(HERE, final(commit(), publish=(Component.VISION,)))
    assert isinstance(answer, NotThere)
    assert answer.missing.endswith("published/a1/vision.json")


async def test_a_component_of_another_checkpoint_is_refused(gate: Gate, commit: Commit) -> None:
    older = commit(step=STEPS - 10)
    checkpoint = commit()
    publish_component(older, Component.VISION)
    answer = await gate.final_checkpoint(HERE, final(checkpoint, publish=(Component.VISION,)))
    assert isinstance(answer, Invalid)
    assert "points at" in answer.problems[0]


async def test_a_manifest_that_is_none_is_refused_without_showing_its_bytes(gate: Gate, commit: Commit) -> None:
    checkpoint = commit()
    (checkpoint.folder / keys.MANIFEST_NAME).write_text('{"password": "hunter2"}')
    answer = await gate.final_checkpoint(HERE, final(checkpoint))
    assert isinstance(answer, Invalid)
    assert "hunter2" not in str(answer)


async def test_every_lost_object_is_named_and_of_very_many_the_first(gate: Gate, commit: Commit) -> None:
    checkpoint = commit(shards=7)
    for shard in checkpoint.folder.glob("*.distcp"):
        shard.unlink()
    answer = await gate.final_checkpoint(HERE, final(checkpoint))
    assert isinstance(answer, Invalid)
    assert len(answer.problems) == 6
    assert answer.problems[-1] == "and 2 more"


async def test_a_store_that_nobody_knows_is_unavailable(gate: Gate) -> None:
    query = GateQuery(STAGE, 1, RUN.uid, STEPS, "ftp://somewhere/uid-1/stage1/")
    answer = await gate.final_checkpoint(HERE, query)
    assert isinstance(answer, Unavailable)
    assert "ftp://somewhere" in answer.error


async def test_a_run_can_start_from_a_published_component(gate: Gate, commit: Commit) -> None:
    uri = publish_component(commit(), Component.VISION)
    answer = await source(gate, uri)
    assert isinstance(answer, SourceReady)
    assert (answer.ref.uri, answer.run, answer.stage) == (uri, "team/run", STAGE)


async def test_a_run_can_start_from_a_checkpoint(gate: Gate, commit: Commit) -> None:
    checkpoint = commit()
    assert await source(gate, checkpoint.uri) == SourceReady(checkpoint.ref, run="team/run", stage=STAGE)


async def test_a_source_that_is_not_there_is_waited_for(gate: Gate, commit: Commit) -> None:
    answer = await source(gate, commit().uri.replace("step-", "step-9"))
    assert isinstance(answer, SourceWaiting)
    assert answer.reason is Reason.WAITING_FOR_WEIGHTS


async def test_a_checkpoint_without_the_component_is_refused(gate: Gate, commit: Commit) -> None:
    answer = await source(gate, commit(components=("projector",)).uri)
    assert isinstance(answer, SourceInvalid)
    assert "holds no vision" in answer.message


async def test_a_component_whose_checkpoint_was_damaged_is_refused(gate: Gate, commit: Commit) -> None:
    checkpoint = commit()
    uri = publish_component(checkpoint, Component.VISION)
    (checkpoint.folder / "shard-0.distcp").unlink()
    answer = await source(gate, uri)
    assert isinstance(answer, SourceInvalid)
    assert answer.reason is Reason.WEIGHTS_INVALID


async def test_a_manifest_must_have_the_digest_on_record(gate: Gate, commit: Commit) -> None:
    uri = publish_component(commit(), Component.VISION)
    answer = await source(gate, uri, sha256="f" * 64)
    assert isinstance(answer, SourceInvalid)
    assert "sha256" in answer.message
