"""A plan: what exists, how the network behaves, what goes wrong when, and what is trained. Frozen, fully checked data.

Here are the data and their JSON, which ranks read too. Reading YAML is reader.py, for the host alone.
"""

from testbed.plan.model import (
    AlgorithmChoice,
    Network,
    NodeSpec,
    Plan,
    RankPlace,
    Run,
    Target,
    Task,
)

__all__ = ["AlgorithmChoice", "Network", "NodeSpec", "Plan", "RankPlace", "Run", "Target", "Task"]
