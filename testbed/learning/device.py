"""Where networks compute: this machine's processor, or its GPU through CUDA.

torch is imported where there may be a GPU: it takes seconds to load, and a processor does without it.
"""

from __future__ import annotations

import ctypes

from testbed.errors import MachineError
from testbed.plan.model import Device


def choose_device(device: Device) -> str:
    """`device` as torch calls it; auto is the GPU where there is one. Raises MachineError, naming what is missing."""
    if device == "cpu" or (device == "auto" and not _has_driver()):
        return "cpu"
    import torch

    if torch.cuda.is_available() and torch.cuda.device_count():
        return "cuda"
    if device == "auto":
        return "cpu"
    if torch.version.cuda is None:
        raise MachineError(
            f"device cuda: the installed torch {torch.__version__} is built without CUDA",
            remedy="install a CUDA build of torch, or ask for device auto or cpu",
        )
    raise MachineError(
        "device cuda: torch finds no GPU here",
        remedy="give the nodes GPUs (`nodes: {gpus: 1}`), see what `nvidia-smi` lists, or ask for device auto or cpu",
    )


def _has_driver() -> bool:
    """Without the driver's library CUDA finds no GPU, whatever is built into torch."""
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    return True
