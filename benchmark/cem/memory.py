"""Room for the full estimator's inverses, checked before they are allocated."""

import torch

from benchmark.errors import TooLarge
from benchmark.files import proc

_USABLE = 0.8
_GIB = 2**30


def check_memory(components: int, dims: int, device: torch.device) -> None:
    """Raise TooLarge if components * dims^2 float32 take more than 80 % of the device's free memory."""
    need, free = 4 * components * dims**2, _free_bytes(device)
    if free is not None and need > _USABLE * free:
        raise TooLarge(
            f"the full CEM estimator needs {need / _GIB:.1f} GiB for {components} inverse covariances of "
            f"{dims} x {dims}, but {device} has {free / _GIB:.1f} GiB free; "
            "use the diagonal estimator or fewer components."
        )


def _free_bytes(device: torch.device) -> int | None:
    """Free bytes, or None if the system does not tell."""
    if device.type == "cuda":
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)  # by torch, for its next use
        return torch.cuda.mem_get_info(device)[0] + cached
    available = proc("meminfo", "MemAvailable")  # "123456 kB"
    return None if available is None else int(available.split()[0]) * 1024
