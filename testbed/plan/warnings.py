"""What of a plan is allowed and probably not meant, or good to know before it runs; the machine is not looked at."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from testbed.algorithms.catalog import find
from testbed.algorithms.node import Channel
from testbed.core.faults import Change, Crash, Cut, Fault, Heal, Moment, Pause
from testbed.plan.clusters import represented, uses_registers
from testbed.plan.launch import is_collective
from testbed.plan.model import Plan
from testbed.plan.quantities import TIME
from testbed.plan.spans import Whose, concerned, ends_what, spans
from testbed.plan.store import tells_messages


def warnings(plan: Plan) -> tuple[str, ...]:
    """What is allowed and probably not meant, or good to know; a sentence each."""
    return tuple(sentence for look in _LOOKS if (sentence := look(plan)) is not None)


def _nothing_is_lost(plan: Plan) -> str | None:
    if Channel.DATAGRAM not in find(plan.algorithm.name, plan.algorithm.file).channels or len(plan.nodes) == 1:
        return None
    lossy = any(link.missing > 0 for link in plan.network.links.kinds)
    return (
        None
        if lossy or any(_loses(fault) for fault in plan.faults)
        else (f"{plan.algorithm.name} is for networks that lose packets, and this plan loses none")
    )


def _loses(fault: Fault) -> bool:
    effect = fault.effect
    if isinstance(effect, Change):
        attributes = dict(effect.attributes)
        return any(attributes.get(name, 0.0) > 0 for name in ("loss", "corrupt"))
    return isinstance(effect, (Cut, Crash))  # (what is sent to nobody is lost as well)


def _collective_stalls(plan: Plan) -> str | None:
    if not is_collective(plan.algorithm):
        return None
    halts = [fault for fault in plan.faults if isinstance(fault.effect, (Cut, Pause))]
    if not halts:
        return None
    endless = [fault for fault in halts if _never_ends(fault, plan)]
    if endless and plan.run.time_s is None:
        return (
            f"{plan.algorithm.name} waits for every rank, and `{endless[0].label}` never ends: the run will stall;"
            " give the fault `for`, or the run a `time`"
        )
    return (
        f"{plan.algorithm.name} waits for every rank: it will stall while `{halts[0].label}` holds, and go on after it"
    )


def _never_ends(fault: Fault, plan: Plan) -> bool:
    """For an algorithm that waits for everybody. An end at a step does not help: nobody gets there."""
    if fault.for_s is not None or (fault.until is not None and fault.until.at_s is not None):
        return False
    at_s = fault.moment.at_s
    endings = [f.moment.at_s for f in plan.faults if f.moment.at_s is not None and ends_what(f.effect, fault.effect)]
    return at_s is None or not any(ending_s >= at_s for ending_s in endings)


def _stays_down(plan: Plan) -> str | None:
    """Allowed: that a node is lost for good is a thing to try."""
    for verb, what in ((Crash, "down"), (Pause, "paused")):
        if verb is Crash and is_collective(plan.algorithm):  # the sentence on crashes says it
            continue
        lasting = [f for f in plan.faults if isinstance(f.effect, verb) and _holds_to_the_end(f, plan)]
        if lasting:
            others = f" and {len(lasting) - 1} more like it" if len(lasting) > 1 else ""
            ends = "`for`, `until` or a `recover`" if verb is Crash else "`for`, `until` or a `resume`"
            return f"`{lasting[0].label}`{others} stays {what} to the end of the run; {ends} would end it"
    return None


def _back_to_nothing(plan: Plan) -> str | None:
    """A crash has an end, and no job to come back to."""
    choice = plan.algorithm
    ended = [f for f in plan.faults if isinstance(f.effect, Crash) and not _holds_to_the_end(f, plan)]
    if not ended or not is_collective(choice) or choice.on_crash == "restart":
        return None
    why = "the job ends with it" if choice.on_crash == "stop" else "the survivors go on without it"
    way = f"on_crash: {choice.on_crash}"
    return f"`{ended[0].label}` has an end, and {why} (`{way}`); `on_crash: restart` would wait for it"


def _holds_to_the_end(fault: Fault, plan: Plan) -> bool:
    """Whether somebody of the fault is ended by nothing in the plan."""
    if fault.for_s is not None or fault.until is not None:
        return False
    left = set(concerned(fault.effect))
    for other in plan.faults:
        if ends_what(other.effect, fault.effect) and _may_follow(other.moment, fault.moment):
            left -= set(concerned(other.effect))
    return bool(left)


def _may_follow(second: Moment, first: Moment) -> bool:
    if first.at_s is not None and second.at_s is not None:
        return second.at_s >= first.at_s
    return first.step is None or second.step is None or second.step >= first.step


def _no_majority(plan: Plan) -> str | None:
    """Worth knowing for whatever needs a quorum; who only averages goes on."""
    node_of = [place.node for place in plan.places]
    ends = [(s.begin_s, 1, s) for s in spans(plan.faults)] + [
        (s.end_s, 0, s) for s in spans(plan.faults) if s.end_s is not None
    ]
    held: Counter[Whose] = Counter()
    for at_s, begins, span in sorted(ends, key=lambda row: row[:2]):
        if isinstance(plan.faults[span.index].effect, (Crash, Pause)):
            held[span.whose] += 1 if begins else -1
            away = [rank for rank, node in enumerate(node_of) if held["node", node] > 0 or held["rank", rank] > 0]
            up = plan.size - len(away)
            spoken_for = represented(plan, set(range(plan.size)) - set(away))
            if begins and 2 * len(spoken_for) <= plan.size and plan.size > 2:
                when = TIME.show(round(at_s, 3))
                return f"at {when} {up} of {plan.size} ranks are up and awake: no majority"
    return None


def _nobody_shares(plan: Plan) -> str | None:
    if uses_registers(plan) or not (plan.clusters or plan.registers == "nvm"):
        return None
    key = "clusters" if plan.clusters else "registers"
    return f"{plan.algorithm.name} has no registers: `{key}` changes nothing"


_MOST_OF_THE_TIME = 0.8


def _hardly_ever_whole(plan: Plan) -> str | None:
    """Cuts that come again and again before the last one is over."""
    cuts = [span for span in spans(plan.faults) if isinstance(plan.faults[span.index].effect, Cut)]
    if len(cuts) < 3 or any(span.end_s is None for span in cuts):
        return None
    covered_s, until_s = 0.0, cuts[0].begin_s
    for span in cuts:
        end_s = span.end_s or 0.0
        covered_s += max(0.0, end_s - max(until_s, span.begin_s))
        until_s = max(until_s, end_s)
    share = covered_s / (until_s - cuts[0].begin_s)
    if share < _MOST_OF_THE_TIME:
        return None
    first, last = (TIME.show(round(at_s, 3)) for at_s in (cuts[0].begin_s, until_s))
    return f"from {first} to {last} something is cut for {share:.0%} of the time: there is little between faults"


def _collective_on_lossy_links(plan: Plan) -> str | None:
    if not is_collective(plan.algorithm):
        return None
    worst = max((link.loss for link in plan.network.links.kinds), default=0.0)
    if worst == 0:
        return None
    return (
        f"{plan.algorithm.name} travels over TCP: what links lose is sent again, so that loss makes it slow, not wrong"
    )


def _never_evaluated(plan: Plan) -> str | None:
    run = plan.run
    if run.evaluate_every <= run.steps:
        return None
    return f"evaluate_every {run.evaluate_every} is more than the run's {run.steps} steps: only the end is evaluated"


def _heals_nothing(plan: Plan) -> str | None:
    heals = any(isinstance(fault.effect, Heal) for fault in plan.faults)
    hurt = any(isinstance(fault.effect, (Cut, Change)) for fault in plan.faults)
    return "the plan heals, and no link in it is ever hurt" if heals and not hurt else None


def _gpus_unused(plan: Plan) -> str | None:
    if any(node.gpus is not None for node in plan.nodes) and plan.run.device == "cpu":
        return "the nodes ask for GPUs, and `device: cpu` leaves them idle"
    if all(node.gpus is None for node in plan.nodes) and plan.run.device == "cuda":
        return "`device: cuda` needs GPUs in the containers: add `gpus: 1` to `nodes`"
    return None


def _ranks_share_a_node(plan: Plan) -> str | None:
    if all(node.ranks == 1 for node in plan.nodes):
        return None
    return "links are between nodes: what ranks of one node send to each other is never lost or delayed"


def _overtakes_nothing(plan: Plan) -> str | None:
    if not any(link.reorder and not link.delay_s for link in plan.network.links.kinds):
        return None
    return "`reorder` does nothing on a link without `delay`: to overtake is to skip the delay"


def _distribution_of_nothing(plan: Plan) -> str | None:
    if not any(link.distribution != "uniform" and not link.jitter_s for link in plan.network.links.kinds):
        return None
    if any("jitter_s" in dict(f.effect.attributes) for f in plan.faults if isinstance(f.effect, Change)):
        return None  # which a fault brings later
    return "`distribution` says how jitter is spread, and some links that have it have no `jitter`"


def _forgets(plan: Plan) -> str | None:
    """`store: {backend: memory}` is a control, and says what it takes away."""
    if plan.store.backend != "memory":
        return None
    if tells_messages(plan.algorithm):
        return (
            f"`backend: memory`: what {plan.algorithm.name} promises about crashes does not hold: who comes back does "
            "not know what it told"
        )
    return "`backend: memory`: who comes back begins with the common start"


_LOOKS: tuple[Callable[[Plan], str | None], ...] = (
    _nothing_is_lost,
    _collective_stalls,
    _collective_on_lossy_links,
    _stays_down,
    _back_to_nothing,
    _no_majority,
    _nobody_shares,
    _forgets,
    _hardly_ever_whole,
    _never_evaluated,
    _heals_nothing,
    _gpus_unused,
    _ranks_share_a_node,
    _overtakes_nothing,
    _distribution_of_nothing,
)
