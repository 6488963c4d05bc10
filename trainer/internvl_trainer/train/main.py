"""The training process: reads the job config, runs the stage, and turns what stopped it into an exit code.

Importing this module is cheap; `preload` and `run` load torch and megatron.core.
"""

import logging
import sys
import warnings
from pathlib import Path

from pydantic import ValidationError

from internvl_trainer.contract.exit_codes import ExitCode
from internvl_trainer.contract.job import JobConfig
from internvl_trainer.train import last_words

logger = logging.getLogger("internvl_trainer")

CRASH = 1
"""Exit code of an error that no type of ours describes: a bug, or a machine that fails."""


def preload() -> None:
    """Import everything that training needs. A launcher does this once and forks its workers afterwards."""
    with warnings.catch_warnings():
        # megatron.core warns at import of every accelerator library that is absent.
        warnings.simplefilter("ignore")
        from internvl_trainer.engine import cpu_shim

        cpu_shim.install()
        # Optimizers load it when the first one is made: here it is paid once, not by every worker.
        import torch._dynamo  # noqa: F401

        import internvl_trainer.train.stage  # noqa: F401


def run(config: Path) -> int:
    """Train the stage that a job config describes, as one worker.

    Returns:
        the process's exit code, by contract/exit_codes.py.
    """
    _configure_logging()
    try:
        job = JobConfig.from_bytes(config.read_bytes())
    except (OSError, ValidationError) as error:
        logger.error("job config %s cannot be used: %s", config, error)
        last_words.leave(f"job config {config} cannot be used: {error}")
        return ExitCode.INVALID_CONFIG
    preload()
    from internvl_trainer.train.stage import run_stage

    try:
        run_stage(job)
    except Exception as error:
        code = exit_code_of(error)
        if code != ExitCode.PEER_LOST:
            last_words.leave(f"{type(error).__name__}: {error}")
        if code is None:
            logger.exception("training crashed")
            return CRASH
        level = logging.WARNING if code == ExitCode.INTERRUPTED else logging.ERROR
        logger.log(level, "%s: %s", type(error).__name__, error)
        return code
    return ExitCode.SUCCESS


def exit_code_of(error: BaseException) -> ExitCode | None:
    """What an error means for the operator; None where nothing is known of it."""
    from internvl_trainer.engine.errors import is_peer_loss

    code = getattr(error, "exit_code", None)
    if isinstance(code, ExitCode):
        return code
    return ExitCode.PEER_LOST if is_peer_loss(error) else None


def _configure_logging() -> None:
    logging.basicConfig(
        stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", force=True
    )
    # Both warn at length of accelerator libraries that are absent and of each other's changes.
    warnings.filterwarnings("ignore", module=r"(megatron|torch\.distributed\.checkpoint)\.")
    # Chatty at INFO about what they were configured with.
    for name in ("megatron", "botocore", "boto3", "urllib3", "s3transfer"):
        logging.getLogger(name).setLevel(logging.ERROR if name == "megatron" else logging.WARNING)
