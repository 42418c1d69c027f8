import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from testbed.learning.draws import Batches, Noise


@given(rows=st.integers(1, 60), batch=st.integers(1, 60), rank=st.integers(0, 2), seed=st.integers(0, 2**32))
def test_every_epoch_deals_every_row_of_the_shard_exactly_once(rows, batch, rank, seed):
    shards = [np.arange(rank * 100, rank * 100 + rows) for rank in range(3)]
    batches = Batches(shards, batch=batch, seed=seed)
    draws = -(-3 * rows // batch)  # three epochs and perhaps a piece of the fourth
    stream = np.concatenate([batches.rows(rank, draw) for draw in range(draws)])
    for epoch in range(3):
        assert np.array_equal(np.sort(stream[epoch * rows : (epoch + 1) * rows]), shards[rank])


def test_epochs_have_orders_of_their_own():
    batches = Batches([np.arange(50)], batch=50, seed=1)
    epochs = [tuple(batches.rows(0, draw)) for draw in range(40)]
    assert len(set(epochs)) == 40  # two equal ones of 50! orders would be a miracle


def test_ranks_and_seeds_have_orders_of_their_own():
    shards = [np.arange(50), np.arange(50)]
    one, other = Batches(shards, batch=50, seed=1), Batches(shards, batch=50, seed=2)
    assert len({tuple(dealt) for dealt in (one.rows(0, 0), one.rows(1, 0), other.rows(0, 0))}) == 3


@given(draws=st.lists(st.integers(0, 200), min_size=1))
def test_a_minibatch_does_not_depend_on_what_was_asked_before(draws):
    def fresh():
        return Batches([np.arange(7), np.arange(7, 19)], batch=4, seed=3)

    used = fresh()
    for draw in draws:
        assert np.array_equal(used.rows(1, draw), fresh().rows(1, draw))


def test_a_batch_larger_than_the_shard_is_full_all_the_same():
    # 10 = 3 + 3 + 3 + 1: three whole epochs of the shard and the first row of the fourth
    dealt = Batches([np.arange(3)], batch=10, seed=0).rows(0, 0)
    assert sorted(np.bincount(dealt)) == [3, 3, 4]


def test_what_is_dealt_cannot_be_changed_by_whoever_gets_it():
    with pytest.raises(ValueError, match="read-only"):
        Batches([np.arange(3)], batch=2, seed=0).rows(0, 0)[0] = 1


def test_noise_is_gaussian_of_the_deviation_asked_for_and_independent_over_draws():
    noise = Noise(3, deviation=0.5, seed=1)
    drawn = np.stack([noise.vector(rank, draw) for rank in range(4) for draw in range(5000)])  # [20 000, 3]
    # Standard errors over 60 000 numbers: of the mean 0.5/√60000 = 0.002, of the deviation 0.5/√120000 = 0.0014; over
    # 20 000 pairs that of a correlation is 1/√20000 = 0.007. Five of each.
    assert abs(drawn.mean()) < 0.01
    assert drawn.std() == pytest.approx(0.5, abs=0.007)
    assert abs(np.corrcoef(drawn[:-1, 0], drawn[1:, 0])[0, 1]) < 0.035
    assert abs(np.corrcoef(drawn[:, 0], drawn[:, 1])[0, 1]) < 0.035


def test_noise_depends_on_seed_rank_and_draw_alone():
    asked, fresh = Noise(3, deviation=1.0, seed=1), Noise(3, deviation=1.0, seed=1)
    later = [asked.vector(2, draw) for draw in (0, 5000, 17)]
    assert np.array_equal(later[2], fresh.vector(2, 17))
    different = [
        fresh.vector(0, 0),
        fresh.vector(1, 0),
        fresh.vector(0, 1),
        Noise(3, deviation=1.0, seed=2).vector(0, 0),
    ]
    assert len({vector.tobytes() for vector in different}) == 4
