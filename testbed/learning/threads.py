"""How many threads compute: those of torch, or those of the library behind NumPy's matrix products.

NumPy brings an OpenBLAS of its own and no word about threads; what is in the environment counts only before its import.
So the loaded library is asked for by name. Where NumPy was built with another one, the environment has the last word.
"""

from __future__ import annotations

import ctypes
from pathlib import Path

_MAPS = Path("/proc/self/maps")
_CALL = "openblas_set_num_threads"
_NAMES = (f"scipy_{_CALL}64_", f"scipy_{_CALL}", f"{_CALL}64_", _CALL)  # NumPy's, SciPy's, and those of distributions


def set_threads(device: str, threads: int) -> None:
    """For the whole process."""
    if device != "cpu":
        import torch

        torch.set_num_threads(threads)
        return
    for path in sorted({line.split()[-1] for line in _MAPS.read_text().splitlines() if "openblas" in line}):
        library = ctypes.CDLL(path)
        for name in _NAMES:
            if hasattr(library, name):
                getattr(library, name)(threads)
                break
