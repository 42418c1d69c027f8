import math

import pytest

from testbed.core.tasks import DATASETS, MODELS, REQUIRED, Parameter, settled


def test_what_is_not_given_takes_its_default():
    assert settled("mlp", {}) == {"hidden": 32}
    assert settled("quadratic", {"dimension": 3, "noise": 0}) == {
        "dimension": 3,
        "condition": 10.0,
        "noise": 0.0,
        "spread": 0.0,
    }


@pytest.mark.parametrize("model", MODELS)
def test_every_default_is_one_that_its_parameter_allows(model):
    for parameter in MODELS[model].parameters.values():
        assert parameter.default is REQUIRED or parameter.complaint(parameter.default) is None


@pytest.mark.parametrize(
    ("model", "given", "sentence"),
    [
        ("mlpp", {}, "there is no model 'mlpp'; there are logistic, mlp, quadratic, double-well"),
        ("mlp", {"hiden": 3}, "model mlp has no parameter 'hiden'; it has hidden"),
        ("mlp", {"hidden": 0}, "hidden of model mlp must be at least 1, not 0"),
        ("mlp", {"hidden": 2.5}, "hidden of model mlp must be a whole number, not 2.5"),
        ("quadratic", {}, "model quadratic needs its parameter 'dimension' (length of x)"),
    ],
)
def test_a_wrong_parameter_is_answered_with_a_sentence(model, given, sentence):
    with pytest.raises(ValueError) as caught:  # noqa: PT011 (the whole sentence is compared below)
        settled(model, given)
    assert str(caught.value) == sentence


def test_an_int_passes_for_a_float_and_a_bool_for_neither():
    fraction, count = Parameter(float, 0.0, 0, ""), Parameter(int, 1, 1, "")
    assert fraction.complaint(2) is None
    assert fraction.complaint(True) == "must be a number, not True"
    assert count.complaint(True) == "must be a whole number, not True"
    assert count.complaint("3") == "must be a whole number, not '3'"
    assert fraction.complaint(math.nan) == "must be at least 0, not nan"
    assert fraction.complaint(math.inf) == "must be at least 0, not inf"


def test_a_data_set_is_what_it_is_trained_and_tested_on():
    digits = DATASETS["digits"]
    assert (digits.rows, digits.train_rows, digits.test_rows) == (1797, 1437, 360)
