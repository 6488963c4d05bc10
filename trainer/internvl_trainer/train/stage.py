"""One attempt of one stage, put together from its parts. Importing this loads torch and megatron.core."""

import logging
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from internvl_trainer.checkpoint.checkpointer import Checkpointer
from internvl_trainer.checkpoint.state import TrainState
from internvl_trainer.contract import environment
from internvl_trainer.contract.data_position import DataPosition
from internvl_trainer.contract.job import JobConfig
from internvl_trainer.data.stream import PackStream
from internvl_trainer.engine import parallel
from internvl_trainer.engine.masking import agree_on_masks
from internvl_trainer.engine.megatron import MegatronEngine
from internvl_trainer.engine.parallel import Place
from internvl_trainer.processes.processors import usable_processors
from internvl_trainer.storage import open_store
from internvl_trainer.train import live, prefetch, workers
from internvl_trainer.train.batches import Batch
from internvl_trainer.train.feed import feed
from internvl_trainer.train.interrupt import StopWish
from internvl_trainer.train.loop import train
from internvl_trainer.train.observers import Reporting, Silent
from internvl_trainer.train.prefetch import Prefetch
from internvl_trainer.train.report import ProgressReporter
from internvl_trainer.train.skips import SkipLog

logger = logging.getLogger(__name__)


def run_stage(job: JobConfig) -> TrainState:
    """Train one stage in this process, as one rank of the job that torchrun's environment describes.

    Raises:
        whatever stops training; types with an `exit_code` say what the process is to end with.
    """
    wish = StopWish()
    begun = time.monotonic()
    place = parallel.start(job.layout)
    grouped = time.monotonic()
    ahead = _plan_prefetch(job, place)
    scratch = Path(os.environ.get(environment.SCRATCH, tempfile.gettempdir()))
    store = open_store(
        endpoint_url=job.storage.endpoint_url,
        region=job.storage.region,
        path_style=job.storage.path_style,
        ca_file=job.storage.ca_file,
    )
    stream = PackStream(
        job.data,
        model=job.model,
        loss_reweighting=job.optimization.loss_reweighting,
        store=store,
        cache=scratch / "data",
        trainable=job.trainable,
    )
    indexed = time.monotonic()
    engine = MegatronEngine(job, place, image_token=stream.tokenizer.img_context_id)

    if place.rank == 0:
        logger.info("%s; %d packs a step, loaded by %s", stream, job.optimization.global_batch, ahead)

    @contextmanager
    def batches(position: DataPosition) -> Iterator[Iterator[Batch]]:
        with feed(
            stream,
            position,
            global_batch=job.optimization.global_batch,
            rank=place.data_rank,
            ranks=place.data_size,
            with_tiles=place.needs_tiles,
            prefetch=ahead,
            pin=torch.cuda.is_available(),
        ) as steps:
            yield _agreed(steps)

    with (
        ProgressReporter(job.progress if place.reports else None) as reporter,
        Checkpointer(job, store, scratch) as checkpoints,
    ):
        observer = Reporting(job, reporter, to_terminal=live.WANTED in os.environ) if place.reports else Silent()
        if place.reports:
            built = time.monotonic()
            logger.info(
                "stage %s, attempt %d, %d ranks; process groups %.1f s, data index %.1f s, model and optimizer %.1f s",
                *(job.stage, job.attempt, place.world, grouped - begun, indexed - grouped, built - indexed),
            )
            logger.info("attention: %s", engine.attention)
        state = train(job, engine, checkpoints, batches, observer, lambda: parallel.any_rank(wish.felt))
    parallel.stop()
    return state


def _plan_prefetch(job: JobConfig, place: Place) -> Prefetch:
    """How this process loads its packs; where by others, those begin to warm up.

    Raises:
        SharedMemoryError: the node has too little of it.
    """
    if not place.needs_tiles:
        return Prefetch(0)
    node = int(os.environ["LOCAL_WORLD_SIZE"])
    first = place.rank - int(os.environ["LOCAL_RANK"])
    loaders = prefetch.loaders_among(job.layout, range(first, first + node))
    accelerated = torch.cuda.is_available()
    demand = prefetch.Demand(
        per_step=job.optimization.global_batch // place.data_size,
        pack_bytes=job.data.pack_tiles * 3 * job.model.vision.image_size**2,
        loaders=loaders,
        pinned=accelerated,
    )
    allowed = prefetch.default_workers(usable_processors(), loaders=loaders, accelerated=accelerated)
    free = prefetch.free_shared_memory()
    chosen = prefetch.choose_prefetch(job.data.workers, allowed=allowed, demand=demand, free=free)
    if chosen.workers:
        workers.preload()
    return chosen


def _agreed(steps: Iterator[Batch]) -> Iterator[Batch]:
    """The steps without samples that a rank that shares their packs could not read; those of this rank are logged."""
    log = SkipLog()
    for batch in steps:
        log.note(batch.packs)
        yield batch._replace(packs=agree_on_masks(batch.packs))
