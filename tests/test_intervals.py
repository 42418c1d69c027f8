"""core/intervals.py against scipy's beta and binomial distributions, and against what can be derived by hand."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from testbed.core.intervals import (
    Interval,
    Trials,
    at_least,
    at_most,
    binomial_interval,
    familywise_level,
    plausible,
)

COUNTS = [(0, 1), (1, 1), (0, 50), (50, 50), (1, 50), (7, 100), (93, 100), (3, 10**6), (100_123, 10**6), (10**6, 10**7)]


@pytest.mark.parametrize(("hits", "trials"), COUNTS)
@pytest.mark.parametrize("level", [0.9, 0.99, 0.99 ** (1 / 132)])
def test_the_interval_is_that_of_clopper_and_pearson(hits: int, trials: int, level: float) -> None:
    tail = (1 - level) / 2
    low = stats.beta.ppf(tail, hits, trials - hits + 1) if hits else 0.0
    high = stats.beta.isf(tail, hits + 1, trials - hits) if hits < trials else 1.0
    interval = binomial_interval(hits, trials, level)
    assert interval.low == pytest.approx(low, rel=1e-8, abs=1e-15)
    assert interval.high == pytest.approx(high, rel=1e-8)


@pytest.mark.parametrize(("hits", "trials"), COUNTS)
@pytest.mark.parametrize("probability", [1e-7, 0.01, 0.1, 0.5, 0.999])
def test_the_tails_are_those_of_the_binomial(hits: int, trials: int, probability: float) -> None:
    assert at_least(hits, trials, probability) == pytest.approx(
        stats.binom.sf(hits - 1, trials, probability), rel=1e-7, abs=1e-13
    )
    assert at_most(hits, trials, probability) == pytest.approx(
        stats.binom.cdf(hits, trials, probability), rel=1e-7, abs=1e-13
    )


def test_nothing_lost_of_n_still_has_an_upper_end() -> None:
    # (1 - p)^100 = 0.005 at the upper end of a 99 % interval
    assert binomial_interval(0, 100) == Interval(0.0, pytest.approx(1 - 0.005**0.01))
    assert binomial_interval(100, 100) == Interval(pytest.approx(0.005**0.01), 1.0)


def test_no_trials_say_nothing() -> None:
    assert binomial_interval(0, 0) == Interval(0.0, 1.0)
    assert plausible(0, 0, [Trials(0, 0.3)])


def test_more_hits_than_trials_are_refused() -> None:
    with pytest.raises(ValueError, match="of 4 is not a count"):
        binomial_interval(5, 4)


def test_the_interval_covers_at_least_as_often_as_it_says() -> None:
    # summed exactly over all outcomes of 40 trials, no dice
    for p in (0.01, 0.1, 0.37, 0.9):
        covered = sum(stats.binom.pmf(k, 40, p) for k in range(41) if p in binomial_interval(k, 40, 0.95))
        assert covered >= 0.95


def test_an_honest_network_of_twelve_pairs_is_called_dishonest_in_one_percent_of_runs() -> None:
    level = familywise_level(0.99, 12)
    assert level**12 == pytest.approx(0.99)
    # Exactly: a pair of 2000 packets at 10 % fails with this probability at most, twelve of them with 1 - (1 - f)^12.
    ks = np.arange(2001)
    plausible_ks = [k for k in range(120, 290) if plausible(k, k, [Trials(2000, 0.1)], level)]
    fail = 1 - stats.binom.pmf(ks, 2000, 0.1)[plausible_ks].sum()
    assert 1 - (1 - fail) ** 12 <= 0.01
    # and it is not hopelessly blind: a binomial is coarse, but not by a factor of two here
    assert 1 - (1 - fail) ** 12 >= 0.005


def test_judging_by_tails_is_judging_by_the_interval() -> None:
    for hits in range(101):
        assert plausible(hits, hits, [Trials(100, 0.1)]) == (0.1 in binomial_interval(hits, 100))


def test_a_clean_link_that_lost_one_packet_is_not_as_asked() -> None:
    assert plausible(0, 0, [Trials(1000, 0.0)])
    assert not plausible(1, 1, [Trials(1000, 0.0)])


def test_a_cut_that_let_one_packet_through_is_not_as_asked() -> None:
    assert plausible(1000, 1000, [Trials(1000, 1.0)])
    assert not plausible(999, 999, [Trials(1000, 1.0)])


def test_a_cut_is_no_excuse_for_the_rest_of_the_run() -> None:
    # 1000 packets met a cut and 1000 met 10 %: about 1100 losses. A binomial over all 2000 with p = 0.55 would have a
    # standard deviation of 22 packets; what is left to chance has sqrt(1000 * 0.1 * 0.9) = 9.5, and 40 too many show.
    parts = [Trials(1000, 1.0), Trials(1000, 0.1)]
    assert plausible(1100, 1100, parts)
    assert plausible(1110, 1110, parts)
    assert not plausible(1140, 1140, parts)
    assert not plausible(1060, 1060, parts)


def test_loss_that_changed_is_compared_with_the_weighted_expectation() -> None:
    # 3000 * 0.1 + 1000 * 0.3 = 600, standard deviation sqrt(270 + 210) = 22
    parts = [Trials(3000, 0.1), Trials(1000, 0.3)]
    assert plausible(600, 600, parts)
    assert plausible(630, 630, parts)
    assert not plausible(700, 700, parts)


def test_mixing_two_losses_never_raises_more_alarms_than_promised() -> None:
    # the exact Poisson-binomial of 60 packets at 5 % and 60 at 40 %, by convolution
    parts = [Trials(60, 0.05), Trials(60, 0.4)]
    exact = np.convolve(stats.binom.pmf(np.arange(61), 60, 0.05), stats.binom.pmf(np.arange(61), 60, 0.4))
    alarms = sum(exact[k] for k in range(121) if not plausible(k, k, parts, 0.95))
    assert alarms <= 0.05


def test_a_count_known_only_between_bounds_is_given_the_benefit() -> None:
    assert not plausible(150, 150, [Trials(1000, 0.1)])
    assert plausible(110, 150, [Trials(1000, 0.1)])  # up to 40 of them may have been overflow
