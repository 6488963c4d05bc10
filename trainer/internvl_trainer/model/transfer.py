"""Copies from host memory to the training device that nobody waits for."""

import torch


def sent(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """A CPU tensor on a device; itself where that is the CPU.

    To CUDA it goes by way of pinned memory: such a copy takes its turn among the device's work, while one from pageable
    memory makes the host wait until the device has done all that came before.
    """
    if device.type != "cuda":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)
