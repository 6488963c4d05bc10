"""What the tests' fork server imports once."""

import torch

from internvl_trainer.train.main import preload

torch.set_num_threads(1)
preload()

from tests.integration.trainer import cases  # noqa: E402, F401  (after the device shim is in place)
