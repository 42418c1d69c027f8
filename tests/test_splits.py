import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from testbed.core.splits import dirichlet, iid


def rng(seed=0):
    return np.random.default_rng(seed)


def assert_partition_of_rows(shards, rows):
    assert all(shard.size for shard in shards)
    assert np.array_equal(np.sort(np.concatenate(shards)), np.arange(rows))  # disjoint, and every row is there


@given(rows=st.integers(1, 200), share=st.floats(0, 1), seed=st.integers(0, 2**32))
def test_iid_shards_cover_all_rows_once_and_differ_by_at_most_one_in_size(rows, share, seed):
    size = max(1, round(share * rows))
    labels = np.arange(rows) % 10
    shards = iid(labels, size, rng(seed))
    assert len(shards) == size
    assert_partition_of_rows(shards, rows)
    sizes = [shard.size for shard in shards]
    assert max(sizes) - min(sizes) <= 1


@given(
    rows=st.integers(1, 200),
    share=st.floats(0, 1),
    classes=st.integers(1, 12),
    alpha=st.floats(1e-3, 1e3),
    seed=st.integers(0, 2**32),
)
def test_dirichlet_shards_cover_all_rows_once_and_none_is_empty(rows, share, classes, alpha, seed):
    size = max(1, round(share * rows))
    labels = rng(seed).integers(classes, size=rows)
    shards = dirichlet(labels, size, alpha, rng(seed))
    assert len(shards) == size
    assert_partition_of_rows(shards, rows)


def test_splits_depend_on_the_dice_alone():
    labels = np.arange(300) % 10
    for split in (lambda dice: iid(labels, 7, dice), lambda dice: dirichlet(labels, 7, 0.5, dice)):
        first, same, other = split(rng(1)), split(rng(1)), split(rng(2))
        assert all(np.array_equal(a, b) for a, b in zip(first, same, strict=True))
        assert not all(np.array_equal(a, b) for a, b in zip(first, other, strict=True))


@pytest.mark.parametrize("alpha", [0.1, 1.0, 10.0])
def test_dirichlet_shares_have_the_mean_and_variance_of_the_distribution(alpha):
    # A component S of the symmetric Dirichlet(α) over n ranks is Beta(α, (n−1)α), hence
    #   E S = 1/n,   Var S = α·(n−1)α / ((nα)²(nα+1)) = (1/n)(1−1/n)/(nα+1).
    # 2000 classes are 2000 independent draws of each rank's share. With 1000 rows to a class rounding moves a share by
    # at most 0.001, which adds nothing one could see; 2000·n shares leave no rank empty.
    n, classes, rows_each = 5, 2000, 1000
    labels = np.repeat(np.arange(classes), rows_each)
    shards = dirichlet(labels, n, alpha, rng(3))
    shares = np.stack([np.bincount(labels[shard], minlength=classes) for shard in shards]) / rows_each  # [n, classes]
    variance = (1 / n) * (1 - 1 / n) / (n * alpha + 1)
    # The mean of 2000 draws has the standard error √(variance/2000); 5 of them are exceeded once in two million.
    assert np.all(np.abs(shares.mean(axis=1) - 1 / n) < 5 * np.sqrt(variance / classes) + 1e-3)
    # All ranks together: 10 000 squared deviations. Their relative standard error is √((kurtosis−1)/10 000), or 1.7 %
    # with the kurtosis 3.7 of Beta(1, 4), the largest of the three; the shares of one class depend on each other, which
    # at worst makes 10 000 count as 2000 (3.7 %).
    assert np.mean((shares - 1 / n) ** 2) == pytest.approx(variance, rel=0.15)


def test_dirichlet_of_small_alpha_gives_a_class_to_few_ranks_and_of_large_alpha_to_all():
    labels = np.repeat(np.arange(10), 100)

    def largest_share(alpha):  # of each class, the rank that has most of it; averaged over classes
        shards = dirichlet(labels, 4, alpha, rng(1))
        return np.mean(np.max([np.bincount(labels[shard], minlength=10) / 100 for shard in shards], axis=0))

    assert largest_share(0.01) > 0.9
    assert largest_share(1000.0) < 0.3  # 1/4, and a standard deviation of √(.25·.75/4001) = 0.007


def test_a_rank_left_with_nothing_gets_one_row_from_the_largest_shard():
    # One class and a tiny alpha: one rank is dealt everything, and the other three one row each afterwards.
    shards = dirichlet(np.zeros(10, np.int64), 4, 1e-3, rng(0))
    assert sorted(shard.size for shard in shards) == [1, 1, 1, 7]


@pytest.mark.parametrize("split", [iid, lambda *given: dirichlet(given[0], given[1], 1.0, given[2])])
def test_more_ranks_than_rows_are_refused(split):
    with pytest.raises(ValueError, match="3 rows cannot be split over 4 ranks"):
        split(np.zeros(3, np.int64), 4, rng())


def test_an_alpha_that_is_not_positive_is_refused():
    with pytest.raises(ValueError, match="must be positive"):
        dirichlet(np.zeros(3, np.int64), 2, 0.0, rng())
