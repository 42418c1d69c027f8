import subprocess
import sys

import numpy as np
import pytest

from testbed.learning.learner import build
from testbed.plan.model import Task


def test_a_network_without_its_data_is_refused():
    with pytest.raises(ValueError, match="needs a data set and the folder"):
        build(Task(model="mlp"), size=2, seed=0)


def test_parameters_of_the_plan_reach_the_model():
    task = Task(data=None, model="quadratic", parameters={"dimension": 3, "condition": 4, "noise": 0})
    learner = build(task, size=2, seed=0)
    assert learner.dimension == 3
    # noise-free, so gradient(x) − gradient(0) = A x, whose diagonal goes 1, 2, 4
    ones, zeros = np.ones(3, np.float32), np.zeros(3, np.float32)
    slope = learner.gradient(0, ones, 0)[0] - learner.gradient(0, zeros, 0)[0]
    assert slope == pytest.approx([1, 2, 4], rel=1e-5)


@pytest.mark.parametrize("model", ["quadratic", "double-well"])
def test_objectives_without_data_do_not_load_torch(model):
    program = f"""
import sys
from testbed.learning.learner import build
from testbed.plan.model import Task
learner = build(Task(data=None, model={model!r}, parameters={{"dimension": 2}}), size=2, seed=0)
learner.gradient(0, learner.start(), 0)
assert "torch" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
