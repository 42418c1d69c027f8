"""From YAML to plans: what becomes of what is written, and that complaints come whole and with their place."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from testbed.core.faults import Change, Cut, Heal, Moment
from testbed.core.links import Link
from testbed.errors import PlanError
from testbed.plan import Plan, Run
from testbed.plan.reader import load_plan, read_plan

HEAD = """\
name: small
nodes: {count: 4}
algorithm: {name: rps, lr: 1e-1}
task: {model: mlp}
"""


def read(more: str = "", *overrides: str) -> Plan:
    return read_plan(HEAD + more, file="small.yaml", overrides=overrides)


def complaints(more: str = "", *overrides: str) -> list[str]:
    with pytest.raises(PlanError) as refused:
        read(more, *overrides)
    return [str(complaint) for complaint in refused.value.complaints]


def test_plan_without_a_network_has_clean_links() -> None:
    plan = read()
    assert plan.network.links.size == 4
    assert all(link.is_clean for link in plan.network.links.links.values())


def test_number_with_an_exponent_is_a_number() -> None:
    assert read().algorithm.parameters == {"lr": 0.1}  # PyYAML by itself reads 1e-1 as text


def test_later_links_override_earlier_ones_attribute_by_attribute() -> None:
    plan = read("""\
network:
  default: {loss: 10%, delay: 5ms, rate: 1mbit}
  links:
    - {from: "0-1", to: all, loss: 20%}
    - {from: 0, to: 2, both: true, delay: 40ms, rate: unlimited}
""")
    links = plan.network.links.links
    assert links[0, 1] == Link(loss=0.2, delay_s=0.005, rate_bps=1e6)
    assert links[0, 2] == Link(loss=0.2, delay_s=0.04)
    assert links[2, 0] == Link(loss=0.1, delay_s=0.04)
    assert links[3, 2] == Link(loss=0.1, delay_s=0.005, rate_bps=1e6)


def test_list_of_node_groups_is_laid_out_in_order() -> None:
    plan = read_plan(
        HEAD.replace("{count: 4}", "[{count: 2, ranks: 3}, {gpus: [0, GPU-7], memory: 1g}]"), file="p.yaml"
    )
    assert [node.ranks for node in plan.nodes] == [3, 3, 1]
    assert plan.nodes[2].gpus == ("0", "GPU-7")
    assert plan.nodes[2].memory_bytes == 2**30
    assert plan.size == 7


def test_faults_become_effects_with_labels_that_a_person_would_say() -> None:
    plan = read("""\
faults:
  - {at: 5s, partition: ["0-1", [2, 3]], for: 5s}
  - {at: step 50, isolate: 2}
  - {at: 12s, one-way: {from: 0, to: "1-3"}}
  - {at: 13s, set: {from: all, to: 3, loss: 30%, rate: unlimited}}
  - {at: 13s, set: {from: 0, to: 1, both: true, delay: 20ms}}
  - {at: 1.5min, heal: true}
""")
    assert [fault.label for fault in plan.faults] == [
        "partition 0,1 | 2,3",
        "isolate 2",
        "cut 0→1-3",
        "set all→3: loss 30%, rate unlimited",
        "set 0↔1: delay 20ms",
        "heal",
    ]
    effects = [fault.effect for fault in plan.faults]
    assert effects[0] == Cut(frozenset((a, b) for a in range(4) for b in range(4) if (a < 2) != (b < 2)))
    assert effects[1] == Cut(frozenset((a, b) for a in range(4) for b in range(4) if (a == 2) != (b == 2)))
    assert effects[2] == Cut(frozenset({(0, 1), (0, 2), (0, 3)}))
    assert effects[3] == Change(
        frozenset({(0, 3), (1, 3), (2, 3)}), (("loss", 0.3), ("burst", None), ("rate_bps", None))
    )
    assert effects[4] == Change(frozenset({(0, 1), (1, 0)}), (("delay_s", 0.02),))
    assert effects[5] == Heal()
    assert [fault.moment for fault in plan.faults][:2] == [Moment(at_s=5), Moment(step=50)]
    assert [fault.for_s for fault in plan.faults] == [5, None, None, None, None, None]
    assert plan.faults[5].moment == Moment(at_s=90)


def test_plan_survives_json() -> None:
    plan = load_plan(Path(__file__).parent.parent / "topologies" / "rps-rough-weather.yaml")
    assert Plan.from_json(json.loads(json.dumps(plan.to_json()))) == plan


def test_model_parameters_are_filled_with_their_defaults() -> None:
    task = read_plan(HEAD.replace("model: mlp", "model: quadratic, dimension: 5, spread: 2"), file="p.yaml").task
    assert task.parameters == {"dimension": 5, "condition": 10, "noise": 0.1, "spread": 2}
    assert task.data is None


# Complaints -----------------------------------------------------------------------------------------------------------


def test_all_complaints_come_at_once_in_the_order_of_the_file() -> None:
    assert complaints("""\
network:
  default:
    loss: 150%
    delay: 20
run: {steps: 10}
faults:
  - {at: step 10, isolate: 7}
""") == [
        "small.yaml:7: network.default.loss: `loss: 150%` is not between 0% and 100%",
        "small.yaml:8: network.default.delay: `delay: 20` has no unit (write `20ms` or `20s`)",
        "small.yaml:11: faults[0].at: this fault comes at step 10, and the run ends with step 10"
        " (let it come earlier, or raise `run.steps` above 10)",
        "small.yaml:11: faults[0].isolate: `isolate: 7`: node 7 does not exist (this plan has nodes 0 to 3)",
    ]


def test_one_mistake_earns_one_complaint() -> None:
    # neither the nodes that are unknown now nor the step count that is unknown now is complained about again
    text = HEAD.replace("{count: 4}", "{count: four}") + "faults: [{at: step 500, isolate: 7}]\n"
    with pytest.raises(PlanError) as refused:
        read_plan(text, file="small.yaml")
    assert [complaint.path for complaint in refused.value.complaints] == ["nodes.count"]
    assert len(complaints("run: {steps: many}\nfaults: [{at: step 500, isolate: 2}]")) == 1


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("", "p.yaml: the plan is empty (start from a copy of topologies/quickstart.yaml)"),
        ("# nothing\n", "p.yaml: the plan is empty (start from a copy of topologies/quickstart.yaml)"),
        ("a: [1", "p.yaml:1: this is not YAML: expected ',' or ']', but got '<stream end>'"),
        (
            "a:\n\tb: 1",
            "p.yaml:2: this is not YAML: found character '\\t' that cannot start any token"
            " (indent with spaces, not tabs)",
        ),
        ("a: {b: *c}", "p.yaml:1: this is not YAML: found undefined alias 'c'"),
        ("[" * 5000, "p.yaml: this is nested too deeply for a plan"),
        ("a: 1\x00", "p.yaml: this is not YAML: unacceptable character #x0000: special characters are not allowed"),
        (
            "a: 1\n---\nb: 2",
            "p.yaml:2: this is not YAML: but found another document"
            " (a plan is one document: remove what follows `---`)",
        ),
    ],
)
def test_what_is_no_plan_at_all_is_answered_in_one_sentence(text: str, answer: str) -> None:
    with pytest.raises(PlanError) as refused:
        read_plan(text, file="p.yaml")
    assert str(refused.value) == answer


def test_aliases_that_multiply_are_refused_and_not_expanded() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 9)]  # 10^9 values
    with pytest.raises(PlanError, match="without end"):
        read_plan("\n".join(lines), file="p.yaml")


def test_tag_that_would_run_code_is_refused() -> None:
    assert any("means nothing in a plan" in each for each in complaints('x: !!python/object/apply:os.system ["true"]'))


def test_missing_file_is_a_wrong_plan(tmp_path: Path) -> None:
    with pytest.raises(PlanError, match="there is no such file"):
        load_plan(tmp_path / "nowhere.yaml")
    (tmp_path / "latin.yaml").write_bytes(b"name: caf\xe9")
    with pytest.raises(PlanError, match="UTF-8"):
        load_plan(tmp_path / "latin.yaml")
    with pytest.raises(PlanError, match="cannot be read"):
        load_plan(tmp_path)


# Jitter that meets a smaller delay ------------------------------------------------------------------------------------

LINK = "network: {default: {delay: 10ms, jitter: 2ms}}\n"


@pytest.mark.parametrize(
    "faults",
    [
        "- {at: 1s, set: {from: 0, to: 1, delay: 1ms}}",  # under the jitter of the default
        "- {at: 1s, set: {from: 0, to: 1, jitter: 11ms}}",  # over the delay of the default
        # the second begins while the first holds, and leaves its jitter standing
        "- {at: 1s, for: 5s, set: {from: 0, to: 1, delay: 50ms, jitter: 30ms}}\n"
        "- {at: 2s, set: {from: all, to: 1, delay: 20ms}}",
        # a step may come at any time
        "- {at: step 5, for: 1s, set: {from: 0, to: 1, delay: 50ms, jitter: 30ms}}\n"
        "- {at: 2s, set: {from: all, to: 1, delay: 20ms}}",
    ],
)
def test_faults_that_would_leave_more_jitter_than_delay_are_refused(faults: str) -> None:
    (answer,) = complaints(f"{LINK}faults:\n{faults}")
    assert "could then have a jitter of" in answer


@pytest.mark.parametrize(
    "faults",
    [
        "- {at: 1s, for: 1s, set: {from: 0, to: 1, delay: 50ms, jitter: 30ms}}\n"
        "- {at: 2s, set: {from: 0, to: 1, delay: 20ms}}",  # the first is over
        "- {at: 1s, set: {from: 0, to: 1, delay: 50ms, jitter: 30ms}}\n- {at: 2s, heal: true}\n"
        "- {at: 3s, set: {from: 0, to: 1, delay: 20ms}}",  # the first is healed
        "- {at: 1s, set: {from: 0, to: 1, delay: 50ms, jitter: 30ms}}\n"
        "- {at: 2s, set: {from: 0, to: 1, delay: 5ms, jitter: 5ms}}",  # the second brings both
        "- {at: 1s, set: {from: 0, to: 1, delay: 50ms, jitter: 30ms}}\n"
        "- {at: 2s, set: {from: 1, to: 0, delay: 20ms}}",  # another link
    ],
)
def test_faults_that_never_leave_more_jitter_than_delay_are_not_refused(faults: str) -> None:
    plan = read(f"{LINK}faults:\n{faults}")
    schedule = plan.schedule()
    for now_s in range(10):
        schedule.advance(now_s=now_s, step=0)
        schedule.link_state()  # raises where a link would be none


# --set ----------------------------------------------------------------------------------------------------------------


def test_override_changes_adds_and_removes() -> None:
    more = "network: {default: {loss: 10%}}\nfaults: [{at: 5s, isolate: 2}]\n"
    plan = read(more, "network.default.loss=5%", "faults[0].at=step 7", "run.target.loss=0.5", "faults.0.for=2s")
    assert plan.network.links.links[0, 1].loss == 0.05
    assert (plan.faults[0].moment, plan.faults[0].for_s) == (Moment(step=7), 2)
    assert plan.run.target is not None
    assert plan.run.target.loss == 0.5
    assert read(more, "faults=", "nodes={count: 2}").faults == ()


@pytest.mark.parametrize(
    ("override", "answer"),
    [
        ("network.default.loss=7", "network.default.loss: `loss: 7` has no unit (write `7%`)"),
        (
            "network.default.lost=7%",
            "network.default.lost: `lost` is not a key of the default link (did you mean `loss`?"
            " known here: loss, delay, jitter, distribution, duplicate, reorder, corrupt, rate, limit)",
        ),
        ("faults[3].at=5s", "faults[3].at: there is no `faults[3]`: `faults` has 1 entries"),
        ("faults.at=5s", "faults.at: `faults` is a list and has no key `at` (number its entries: `faults[0].at`)"),
        ("nodes[0].cpus=1", "nodes[0].cpus: there is no `nodes[0]`: `nodes` is no list (its keys: count)"),
        ("name.x=1", "name.x: `name` is a single value and has no key `x`"),
        ("steps", "this is not PATH=VALUE (write it like `--set network.default.loss=5%`)"),
        ("=3", "this is not PATH=VALUE (write it like `--set network.default.loss=5%`)"),
        ("a..b=3", "this is not PATH=VALUE (write it like `--set network.default.loss=5%`)"),
        ("seed=[1", "seed: this is not YAML: expected ',' or ']', but got '<stream end>'"),
    ],
)  # fmt: skip
def test_wrong_override_is_the_place_of_its_complaint(override: str, answer: str) -> None:
    assert complaints("faults: [{at: 5s, isolate: 2}]\n", override) == [f"--set {override}: {answer}"]


# Own algorithms -------------------------------------------------------------------------------------------------------

OWN = """\
async def sgd(node, *, lr: float, nesterov: bool = False, mode: str = "a", extra=1):
    '''Plain SGD.'''
"""


def own(tmp_path: Path, code: str, parameters: str) -> Plan:
    (tmp_path / "mine.py").write_text(code)
    (tmp_path / "plan.yaml").write_text(HEAD.replace("{name: rps, lr: 1e-1}", f"{{name: mine.py:sgd, {parameters}}}"))
    return load_plan(tmp_path / "plan.yaml")


def test_own_algorithm_is_found_beside_the_plan(tmp_path: Path) -> None:
    choice = own(tmp_path, OWN, "lr: 0.1, nesterov: true, mode: b, extra: x").algorithm
    assert (choice.name, choice.file) == ("sgd", str(tmp_path / "mine.py"))
    assert choice.parameters == {"lr": 0.1, "nesterov": True, "mode": "b", "extra": "x"}


@pytest.mark.parametrize(
    ("code", "parameters", "answer"),
    [
        (OWN, "lr: 0.1, nestrov: true", "`nestrov` is not a key of algorithm sgd (did you mean `nesterov`?"),
        (OWN, "nesterov: 1", "`nesterov: 1` is neither true nor false"),
        (OWN, "extra: 1", "algorithm sgd needs `lr`"),
        ("x = 1\n", "lr: 0.1", "has no function 'sgd'"),
        ("def sgd(node): ...\n", "lr: 0.1", "is not a coroutine: write `async def sgd(node, *, ...)`"),
        ("async def sgd(*, lr): ...\n", "lr: 0.1", "takes no node"),
        ("x = 1\ny = nothing\n", "lr: 0.1", "NameError: name 'nothing' is not defined (line 2 of that file)"),
        ("def (:\n", "lr: 0.1", "cannot be loaded: SyntaxError"),
        ("raise SystemExit(3)\n", "lr: 0.1", "cannot be loaded: SystemExit: 3 (line 1 of that file)"),
        ("async def sgd(node, *, lr: Nothing): ...\nfrom __future__ import x\n", "lr: 0.1", "cannot be loaded"),
    ],
)
def test_wrong_own_algorithm_is_a_complaint_about_the_plan(
    tmp_path: Path, code: str, parameters: str, answer: str
) -> None:
    with pytest.raises(PlanError) as refused:
        own(tmp_path, code, parameters)
    assert any(answer in str(complaint) for complaint in refused.value.complaints), str(refused.value)


def test_gradient_times_are_constant_or_by_chance_or_measured() -> None:
    for written, run in (
        ("5ms", (0.005, "constant")),
        ("exp(5ms)", (0.005, "exponential")),
        ("measured", (Run().gradient_s, "measured")),
    ):
        plan = read(f"run: {{gradient_time: {written}}}\n")
        assert (plan.run.gradient_s, plan.run.gradient_law) == run
        assert Plan.from_json(plan.to_json()) == plan
    (complaint,) = complaints("run: {gradient_time: exp(5)}\n")
    assert "`exp(5ms)` or `exp(5s)`" in complaint
