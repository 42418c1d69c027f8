import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from testbed.learning.objectives import DoubleWell, Quadratic

SIZE = 4


def quadratic(**changed):
    parameters = {"dimension": 3, "condition": 10.0, "noise": 0.0, "spread": 2.0, "size": SIZE, "seed": 5}
    return Quadratic(**{**parameters, **changed})


def objectives():
    return [quadratic(), DoubleWell(dimension=3, noise=0.0, seed=5)]


@pytest.mark.parametrize("objective", objectives(), ids=lambda objective: type(objective).__name__)
def test_the_gradient_is_the_slope_of_the_loss(objective):
    # Central differences in double precision: error O(h²·third derivative) + O(1e-16/h), 1e-10 at h = 1e-5.
    x, h = np.array([[0.3, -1.2, 0.7]]), 1e-5
    for rank in range(SIZE):
        (exact,), _ = objective.exact([rank], x)
        slopes = [
            (objective.exact([rank], x + h * e)[1][0] - objective.exact([rank], x - h * e)[1][0]) / (2 * h)
            for e in np.eye(3)
        ]
        assert exact == pytest.approx(slopes, abs=1e-8)


@pytest.mark.parametrize("objective", objectives(), ids=lambda objective: type(objective).__name__)
def test_an_evaluation_is_the_mean_of_all_ranks_losses(objective):
    x = np.array([0.3, -1.2, 0.7], np.float32)
    losses = [objective.gradient(rank, x, 0)[1] for rank in range(SIZE)]
    evaluation = objective.evaluate(x)
    assert evaluation.loss == pytest.approx(np.mean(losses), rel=1e-12)
    assert evaluation.accuracy is None


@pytest.mark.parametrize("objective", objectives(), ids=lambda objective: type(objective).__name__)
def test_the_optimum_is_where_the_mean_gradient_vanishes(objective):
    gradients, _ = objective.gradients(range(SIZE), np.tile(objective.optimum(), (SIZE, 1)), [0] * SIZE)
    # c* and each gradient (of size condition·spread, some 30) are rounded to float32: 30 · 6e-8 and as much again
    assert gradients.mean(axis=0) == pytest.approx(np.zeros(3), abs=1e-5)


def test_eigenvalues_lie_between_one_and_the_condition_evenly_in_logarithm():
    assert quadratic(condition=100.0).eigenvalues == pytest.approx([1.0, 10.0, 100.0])
    assert quadratic(dimension=1).eigenvalues == pytest.approx([1.0])


@given(size=st.integers(1, 20), seed=st.integers(0, 2**32), spread=st.floats(0, 100))
def test_the_ranks_centres_have_the_optimum_for_their_mean(size, seed, spread):
    offsets = quadratic(size=size, seed=seed, spread=spread)
    assert (offsets.centres - offsets.centre).sum(axis=0) == pytest.approx(np.zeros(3), abs=1e-11)


def test_spread_is_the_standard_deviation_of_the_centres():
    # 4 · 20 000 squared offsets of which 3/4 are free: relative standard error √(2/60 000) = 0.6 % of the square
    offsets = quadratic(dimension=20_000, spread=0.5)
    assert np.mean((offsets.centres - offsets.centre) ** 2) == pytest.approx(0.25, rel=0.03)


def test_descent_along_the_mean_gradient_converges_to_the_known_optimum():
    objective = quadratic()
    x = objective.start()
    for step in range(200):
        gradients, _ = objective.gradients(range(SIZE), np.tile(x, (SIZE, 1)), [step] * SIZE)
        x = x - np.float32(2 / 11) * gradients.mean(axis=0)  # 2/(1 + condition) contracts by 9/11: 0.82²⁰⁰ = 4e-18
    assert x == pytest.approx(objective.optimum(), abs=1e-5)


def test_descent_with_one_ranks_gradients_converges_to_that_ranks_centre():
    objective = quadratic()
    x = objective.start()
    for step in range(200):
        x = x - np.float32(2 / 11) * objective.gradient(2, x, step)[0]
    assert x == pytest.approx(objective.centres[2], abs=1e-5)


def test_the_start_of_the_double_well_lies_on_the_ridge_and_noise_chooses_the_well():
    still = DoubleWell(dimension=1, noise=0.0, seed=0)
    assert still.gradient(0, still.start(), 0)[0] == 0.0  # nothing moves without noise

    wells = []
    for seed in range(40):
        noisy = DoubleWell(dimension=1, noise=0.1, seed=seed)
        x = noisy.start()
        for step in range(100):
            x = x - np.float32(0.2) * noisy.gradient(0, x, step)[0]
        # At the bottom F'' = 2, so x forgets by 0.6 a step and stands out by 0.2·0.1/√(1−0.36) = 0.025
        assert abs(x[0]) == pytest.approx(1.0, abs=0.15)
        wells.append(x[0] > 0)
    assert 8 <= sum(wells) <= 32  # a fair coin: 20 ± 3.2, and the seeds are fixed


def test_one_gradient_is_the_same_as_one_of_many():
    for objective in (quadratic(noise=0.3), DoubleWell(dimension=3, noise=0.3, seed=1)):
        xs = np.random.default_rng(0).normal(size=(3, 3)).astype(np.float32)
        ranks, draws = [3, 0, 3], [7, 7, 900]
        many, losses = objective.gradients(ranks, xs, draws)
        assert many.dtype == np.float32
        for k in range(3):
            one, loss = objective.gradient(ranks[k], xs[k], draws[k])
            assert np.array_equal(one, many[k])
            assert loss == losses[k]


def test_noise_is_added_to_the_gradient_and_not_to_the_loss():
    x = np.zeros(3, np.float32)
    exact, loss = quadratic().gradient(0, x, 0)
    noisy = [quadratic(noise=0.5).gradient(0, x, draw) for draw in range(500)]
    assert {one_loss for _, one_loss in noisy} == {loss}
    # 1500 numbers: standard error of the mean 0.5/√1500 = 0.013, of the deviation 0.009; five of each
    away = np.stack([one for one, _ in noisy]) - exact
    assert away.mean() == pytest.approx(0, abs=0.065)
    assert away.std() == pytest.approx(0.5, abs=0.046)
