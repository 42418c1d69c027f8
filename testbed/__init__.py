"""testbed: distributed learning on real processes over networks that are really bad.

For scripts: `from testbed import load` (experiment.py). It is looked up when it is asked for, since ranks import this
package too and need nothing of what scripts do.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from testbed.experiment import Experiment, Result, load

__all__ = ["Experiment", "Result", "load"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name in __all__:
        from testbed import experiment

        return getattr(experiment, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
