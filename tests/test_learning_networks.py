import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from testbed.datasets import prepare
from testbed.errors import MachineError
from testbed.learning.device import choose_device
from testbed.learning.learner import build
from testbed.learning.networks import Layout, losses_and_gradients
from testbed.plan.model import Task

LOGISTIC, MLP = Layout((5, 3)), Layout((5, 4, 3))  # 18 and 39 parameters
MODELS, BATCH, L2 = 2, 6, 0.1


@pytest.fixture(scope="module")
def digits(tmp_path_factory) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        return prepare("digits")


def tiny(layout, dtype=torch.float64):
    """Some models, their inputs and their labels; nothing special about them."""
    rng = np.random.default_rng(1)
    xs = torch.tensor(rng.normal(size=(MODELS, layout.dimension)), dtype=dtype)
    inputs = torch.tensor(rng.normal(size=(MODELS, BATCH, layout.widths[0])), dtype=dtype)
    return xs, inputs, torch.tensor(rng.integers(layout.widths[-1], size=(MODELS, BATCH)))


def numpy_loss(widths, x, inputs, labels, l2):
    """The definition, example by example, without torch and without sharing a line with what it tests."""
    total = 0.0
    for row, label in zip(inputs, labels, strict=True):
        here, rest = row, x
        for k in range(len(widths) - 1):
            count = widths[k] * widths[k + 1]
            weights, biases, rest = rest[:count], rest[count : count + widths[k + 1]], rest[count + widths[k + 1] :]
            here = here @ weights.reshape(widths[k], widths[k + 1]) + biases
            if k < len(widths) - 2:
                here = np.maximum(here, 0)
        assert rest.size == 0
        total += np.log(np.exp(here).sum()) - here[label]
    return total / len(labels) + l2 / 2 * (x**2).sum()


@pytest.mark.parametrize("layout", [LOGISTIC, MLP])
def test_losses_are_those_of_the_definition_in_numpy(layout):
    xs, inputs, labels = tiny(layout)
    losses, _ = losses_and_gradients(layout, xs, inputs, labels, L2)
    for k in range(MODELS):
        expected = numpy_loss(layout.widths, xs[k].numpy(), inputs[k].numpy(), labels[k].numpy(), L2)
        assert float(losses[k]) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("layout", [LOGISTIC, MLP])
def test_gradients_are_the_slopes_of_the_losses(layout):
    # Central differences in double precision: error O(h²) + O(1e-16/h), about 1e-10 at h = 1e-5. No ReLU of these
    # inputs is within h of its kink.
    xs, inputs, labels = tiny(layout)
    _, gradients = losses_and_gradients(layout, xs, inputs, labels, L2)
    h = 1e-5
    for k in range(MODELS):
        given = inputs[k].numpy(), labels[k].numpy(), L2
        for j, step in enumerate(h * np.eye(layout.dimension)):
            up = numpy_loss(layout.widths, xs[k].numpy() + step, *given)
            down = numpy_loss(layout.widths, xs[k].numpy() - step, *given)
            assert float(gradients[k, j]) == pytest.approx((up - down) / (2 * h), abs=1e-8)


@pytest.mark.parametrize("layout", [LOGISTIC, MLP, Layout((5, 4, 6, 3))])
def test_gradients_agree_with_autograd(layout):
    xs, inputs, labels = tiny(layout)
    _, gradients = losses_and_gradients(layout, xs, inputs, labels, 0.0)
    for k in range(MODELS):
        x = xs[k].clone().requires_grad_()
        here, layers = inputs[k], layout.layers(x[None])
        for weights, biases in layers[:-1]:
            here = torch.relu(here @ weights[0] + biases[0])
        weights, biases = layers[-1]
        torch.nn.functional.cross_entropy(here @ weights[0] + biases[0], labels[k]).backward()
        assert torch.allclose(x.grad, gradients[k], rtol=1e-10, atol=1e-12)


def test_the_default_perceptron_on_digits_has_2410_parameters(digits):
    assert build(Task(), size=2, seed=0, data=digits).dimension == 64 * 32 + 32 + 32 * 10 + 10 == 2410
    assert build(Task(model="logistic"), size=2, seed=0, data=digits).dimension == 64 * 10 + 10


def test_the_start_is_seeded_and_uniform_within_one_over_the_root_of_the_inputs(digits):
    def start(seed):
        return build(Task(), size=2, seed=seed, data=digits).start()

    x = start(1)
    assert x.dtype == np.float32
    assert np.array_equal(x, start(1))
    assert not np.array_equal(x, start(2))
    first, second = x[: 65 * 32], x[65 * 32 :]
    for layer, inputs in ((first, 64), (second, 32)):
        assert np.abs(layer).max() <= inputs**-0.5
        # uniform in ±a: deviation a/√3; over 330 numbers its relative standard error is √(0.8/4/330) = 2.5 %
        assert layer.std() == pytest.approx(inputs**-0.5 / 3**0.5, rel=0.12)


@pytest.mark.parametrize("model", ["logistic", "mlp"])
def test_one_gradient_is_the_same_as_one_of_many(digits, model):
    # 200 models go through torch in several parts; a rank may come twice, with another model on another draw
    learner = build(Task(model=model), size=8, seed=3, data=digits)
    rng = np.random.default_rng(0)
    ranks, draws = rng.integers(8, size=200).tolist(), rng.integers(500, size=200).tolist()
    xs = rng.normal(size=(200, learner.dimension)).astype(np.float32) * np.float32(0.1)
    many, losses = learner.gradients(ranks, xs, draws)
    assert many.dtype == np.float32
    for k in range(0, 200, 7):
        one, loss = learner.gradient(ranks[k], xs[k], draws[k])
        assert np.abs(one - many[k]).max() <= 1e-6 * np.abs(one).max()
        assert loss == pytest.approx(losses[k], rel=1e-6)


def test_a_gradient_is_that_of_the_ranks_own_minibatch(digits):
    # With a batch as large as the shard every draw is the whole shard, in another order.
    learner = build(Task(model="logistic", batch=479), size=3, seed=3, data=digits)  # 1437 = 3 · 479
    x = np.random.default_rng(0).normal(size=learner.dimension).astype(np.float32)
    train_x, train_y = np.load(digits / "train_x.npy"), np.load(digits / "train_y.npy")
    for rank in range(3):
        shard = learner.shards[rank]
        expected = numpy_loss((64, 10), x.astype(np.float64), train_x[shard], train_y[shard], 1e-3)
        for draw in (0, 1, 17):
            assert learner.gradient(rank, x, draw)[1] == pytest.approx(expected, rel=1e-5)


def test_same_model_same_draw_same_bits_however_the_array_lies_in_memory(digits):
    x = build(Task(), size=2, seed=1, data=digits).start()
    expected, loss = build(Task(), size=2, seed=1, data=digits).gradient(1, x, 40)
    for offset in range(8):
        learner = build(Task(), size=2, seed=1, data=digits)
        learner.gradient(1, x, 3)  # what was asked before does not matter either
        room = np.empty(x.size + offset, np.float32)
        room[offset:] = x
        again, same_loss = learner.gradient(1, room[offset:], 40)
        assert np.array_equal(again, expected)
        assert same_loss == loss


def test_the_model_that_was_given_is_left_as_it_was_and_may_be_read_only(digits):
    learner = build(Task(), size=2, seed=1, data=digits)
    x = learner.start()
    before = x.copy()
    x.flags.writeable = False
    learner.gradient(0, x, 0)
    learner.evaluate(x)
    assert np.array_equal(x, before)


def test_an_evaluation_is_the_share_of_the_test_set_that_is_right_and_its_cross_entropy(digits):
    learner = build(Task(model="logistic"), size=1, seed=0, data=digits)
    x = np.random.default_rng(2).normal(size=650).astype(np.float32)
    test_x, test_y = np.load(digits / "test_x.npy"), np.load(digits / "test_y.npy")
    scores = test_x @ x[:640].reshape(64, 10) + x[640:]
    evaluation = learner.evaluate(x)
    assert evaluation.accuracy == pytest.approx(np.mean(scores.argmax(axis=1) == test_y))
    assert evaluation.loss == pytest.approx(numpy_loss((64, 10), x.astype(np.float64), test_x, test_y, 0.0), rel=1e-5)
    # the start of a logistic regression knows nothing: every class has probability 1/10
    assert learner.evaluate(learner.start()).loss == pytest.approx(np.log(10), rel=1e-6)


@pytest.mark.parametrize(("model", "steps"), [("logistic", 300), ("mlp", 300)])
def test_plain_sgd_learns_the_digits(digits, model, steps):
    learner = build(Task(model=model), size=1, seed=0, data=digits)
    x = learner.start()
    for step in range(steps):
        x = x - np.float32(0.3) * learner.gradient(0, x, step)[0]
    assert learner.evaluate(x).accuracy > 0.9


def test_a_rank_of_a_dirichlet_split_knows_few_classes(digits):
    labels = np.load(digits / "train_y.npy")
    skewed = build(Task(split="dirichlet", alpha=0.05), size=4, seed=0, data=digits)
    blind = build(Task(split="iid"), size=4, seed=0, data=digits)

    def largest_class(learner):
        return np.mean([np.bincount(labels[shard]).max() / shard.size for shard in learner.shards])

    assert largest_class(skewed) > 0.25
    assert largest_class(blind) < 0.15  # a tenth each, of 359 rows: standard deviation 0.016


def test_the_split_depends_on_the_seed_and_not_on_the_model(digits):
    first = build(Task(), size=4, seed=0, data=digits).shards
    assert all(map(np.array_equal, first, build(Task(model="logistic"), size=4, seed=0, data=digits).shards))
    assert not all(map(np.array_equal, first, build(Task(), size=4, seed=1, data=digits).shards))


def test_matrix_products_have_the_threads_that_were_asked_for(digits):
    threadpoolctl = pytest.importorskip("threadpoolctl")

    def threads():
        return {pool["num_threads"] for pool in threadpoolctl.threadpool_info() if pool["internal_api"] == "openblas"}

    try:
        build(Task(), size=1, seed=0, data=digits, threads=2)
        assert threads() == {2}
    finally:
        build(Task(), size=1, seed=0, data=digits, threads=1)
    assert threads() == {1}


@pytest.mark.parametrize("layout", [LOGISTIC, MLP])
def test_numpy_and_torch_compute_the_same(layout):
    given = tiny(layout)
    losses, gradients = losses_and_gradients(layout, *given, L2)
    ours, our_gradients = losses_and_gradients(layout, *(each.numpy() for each in given), L2)
    assert isinstance(our_gradients, np.ndarray)
    assert ours == pytest.approx(losses.numpy(), rel=1e-12)
    assert our_gradients == pytest.approx(gradients.numpy(), rel=1e-10, abs=1e-14)


def test_a_rank_on_a_processor_does_without_torch(digits):
    """Whose import takes longer than all that a rank does else to come back from a crash."""
    program = (
        "import sys; from pathlib import Path; import testbed.rank; from testbed.learning.learner import build; "
        "from testbed.plan.model import Task; learner = build(Task(), size=2, seed=0, data=Path(sys.argv[1])); "
        "learner.gradient(0, learner.start(), 0); learner.evaluate(learner.start()); "
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program, str(digits)], timeout=120).returncode == 0


def test_auto_is_the_gpu_where_there_is_one():
    assert choose_device("cpu") == "cpu"
    assert choose_device("auto") == ("cuda" if torch.cuda.is_available() else "cpu")


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
@pytest.mark.parametrize("task", [Task(), Task(data=None, model="double-well")])
def test_a_gpu_that_is_not_there_is_refused_and_the_missing_piece_is_named(digits, task):
    with pytest.raises(MachineError, match=r"without CUDA|finds no GPU") as caught:
        build(task, size=1, seed=0, data=digits, device="cuda")
    assert "auto" in caught.value.remedy


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU and a CUDA build of torch: pip install torch")
def test_the_gpu_answers_as_the_processor_does(digits):
    here = build(Task(), size=4, seed=1, data=digits)
    there = build(Task(), size=4, seed=1, data=digits, device="cuda")
    assert there.device == "cuda"
    xs = np.tile(here.start(), (4, 1))
    ours, losses = here.gradients(range(4), xs, [5] * 4)
    theirs, their_losses = there.gradients(range(4), xs, [5] * 4)
    assert theirs.dtype == np.float32
    assert theirs == pytest.approx(ours, rel=1e-3, abs=1e-5)
    assert their_losses == pytest.approx(losses, rel=1e-5)
    assert there.evaluate(xs[0]).loss == pytest.approx(here.evaluate(xs[0]).loss, rel=1e-5)
    assert np.array_equal(there.gradient(2, xs[0], 9)[0], there.gradient(2, xs[0], 9)[0])
