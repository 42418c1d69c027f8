"""The simulated arm: every rank in one process, on asyncio with a virtual clock, deterministic by the plan's seed.

A phase of n ranks costs n requests with arrays inside, so that a thousand ranks are a matter of minutes. What it does
not model: the time of anything but gradients and links, the buffers of sockets, and TCP's retransmissions.
"""

from testbed.simulate.clock import DeadlockError
from testbed.simulate.run import Outcome, run_algorithm, simulate, uniform_links

__all__ = ["DeadlockError", "Outcome", "run_algorithm", "simulate", "uniform_links"]
