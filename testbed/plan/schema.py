"""The JSON Schema of a plan, by which editors complete and check the YAML. It is made of the parser's own tables.

It says less than the parser: whether nodes exist, faults come in time or jitter fits the delay needs the whole plan.
"""

from __future__ import annotations

from testbed.plan.kinds import Schema
from testbed.plan.vocabulary import PLAN


def plan_schema() -> Schema:
    """JSON Schema, draft 2020-12."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "testbed plan",
        "description": "Which nodes exist, what links do to packets, what goes wrong when, and what is trained.",
        **PLAN.schema(),
    }
