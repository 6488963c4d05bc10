"""One attempt of one stage, put together from its parts. Importing this loads torch and megatron.core."""

import logging
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from internvl_trainer.checkpoint.checkpointer import Checkpointer
from internvl_trainer.checkpoint.state import TrainState
from internvl_trainer.contract import environment
from internvl_trainer.contract.job import JobConfig
from internvl_trainer.data.stream import Pack, PackStream
from internvl_trainer.engine import parallel
from internvl_trainer.engine.megatron import MegatronEngine
from internvl_trainer.storage import open_store
from internvl_trainer.train import live
from internvl_trainer.train.feed import PackFeed
from internvl_trainer.train.interrupt import StopWish
from internvl_trainer.train.loop import train
from internvl_trainer.train.observers import Reporting, Silent
from internvl_trainer.train.report import ProgressReporter

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
    scratch = Path(os.environ.get(environment.SCRATCH, tempfile.gettempdir()))
    store = open_store(
        endpoint_url=job.storage.endpoint_url, region=job.storage.region, path_style=job.storage.path_style
    )
    stream = PackStream(
        job.data,
        model=job.model,
        loss_reweighting=job.optimization.loss_reweighting,
        store=store,
        cache=scratch / "data",
    )
    indexed = time.monotonic()
    engine = MegatronEngine(job, place, image_token=stream.tokenizer.img_context_id)
    checkpoints = Checkpointer(job, store, scratch)

    @contextmanager
    def feed(first_step: int) -> Iterator[Iterator[list[Pack]]]:
        steps = range(first_step, job.optimization.steps)
        indices = (place.pack_indices(step, job.optimization.global_batch) for step in steps)
        with PackFeed(stream, indices, with_tiles=place.needs_tiles) as packs:
            yield iter(packs)

    with ProgressReporter(job.progress if place.reports else None) as reporter:
        observer = Reporting(job, reporter, to_terminal=live.WANTED in os.environ) if place.reports else Silent()
        if place.reports:
            built = time.monotonic()
            logger.info(
                "stage %s, attempt %d, %d ranks; process groups %.1f s, data index %.1f s, model and optimizer %.1f s",
                *(job.stage, job.attempt, place.world, grouped - begun, indexed - grouped, built - indexed),
            )
            logger.info("attention: %s", engine.attention)
        state = train(job, engine, checkpoints, feed, observer, lambda: parallel.any_rank(wish.felt))
    parallel.stop()
    return state
