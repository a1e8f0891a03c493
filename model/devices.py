"""The device of a job: one that is there, and that works."""

import torch

from model.errors import ConfigError, Warn


def find_device(wanted: str, *, warn: Warn) -> torch.device:
    """Return where one job runs.

    Args:
        wanted: "cpu", "cuda", or "auto": a GPU if there is one that works.
        warn: Told of a GPU that does not.

    Raises:
        ConfigError: "cuda" is wanted, and cannot be used.
    """
    if wanted == "cpu" or (wanted == "auto" and not torch.cuda.device_count()):
        return torch.device("cpu")
    try:
        return open_device("cuda")
    except ConfigError as error:
        if wanted == "cuda":
            raise
        warn(f"{error}; the CPU is used")
        return torch.device("cpu")


def open_device(name: str) -> torch.device:
    """Return a device after trying it: one that is listed may be out of order, too old or full.

    Convolutions in float32 are in float32 from then on: unasked, a GPU rounds their factors to 10
    bits, so that risks would depend on who has one.

    Raises:
        ConfigError: There is no such device, or torch cannot use it.
    """
    torch.backends.cudnn.allow_tf32 = False
    try:
        torch.zeros(1, device=name)
    except (RuntimeError, AssertionError) as error:  # the latter by a torch without CUDA
        reason = str(error).partition("\n")[0]
        raise ConfigError(
            f"device: expected one that torch can use, found {name!r}: {reason}"
        ) from error
    return torch.device(name)


def count_gpus(wanted: str) -> int:
    """Return how many GPUs are listed for "auto" or "cuda"; for "cpu" 0.

    Raises:
        ConfigError: "cuda" is wanted, and none is.
    """
    gpus = 0 if wanted == "cpu" else torch.cuda.device_count()
    if not gpus and wanted == "cuda":
        raise ConfigError("device: expected cuda, found no GPU that torch can use")
    return gpus
