# SPDX-License-Identifier: Apache-2.0
"""Settings of a state-tracking run: one range of eigenvalues for all mixers, kinds of values."""

import pytest

from seqlib.data.state_tracking import make_task
from seqlib.mixers import MIXERS
from seqlib.training.state_tracking import TrackerSettings, build_tracker

SIZES = {
    "delta_net": {"num_heads": 2},
    "gated_delta_net": {"num_heads": 2, "head_dim": 8},
    "delta_product": {"num_heads": 2, "head_dim": 8},
    "mamba2": {"head_dim": 8},
    "full_attention": {"num_heads": 2},
}


def tracker(mixer, **settings):
    wanted = TrackerSettings(
        mixer=mixer, hidden_size=16, intermediate_size=0, mixer_kwargs=SIZES, **settings
    )
    return build_tracker(wanted, make_task("word_problem", group="S3"), 32)


@pytest.mark.parametrize("mixer", MIXERS)
def test_the_switch_and_its_default_reach_the_mixer_that_is_built(mixer):
    """Left alone it is what the mixer itself would do."""
    fresh = MIXERS[mixer](16, **SIZES.get(mixer, {}))
    for given, wanted in (({}, True), ({"negative_eigenvalues": False}, False)):
        block = tracker(mixer, **given).model.layers[0]
        assert type(block.mixer) is type(fresh)
        if mixer in {"fsmn", "full_attention", "s4", "s5"}:  # no eigenvalues, or complex ones
            assert not hasattr(block.mixer, "negative_eigenvalues")
        else:
            assert block.mixer.negative_eigenvalues is wanted
            assert fresh.negative_eigenvalues is True


def test_a_model_answers_in_the_classes_of_its_task():
    model = tracker("mamba", num_hidden_layers=2)
    assert len(model.model.layers) == 2
    assert model.config.num_labels == 6
    assert model.config.vocab_size == 6


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"delta_net": 3}, "mixer_kwargs of delta_net must be a mapping, got 3"),
        (
            {"delta_net": {"negative_eigenvalues": "false"}},
            "negative_eigenvalues is True, but mixer_kwargs of delta_net say false",
        ),
    ],
)
def test_options_that_can_not_be(options, message):
    with pytest.raises(ValueError, match=message):
        TrackerSettings(mixer="delta_net", mixer_kwargs=options)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_hidden_layers": 0}, "num_hidden_layers must be positive, got 0"),
        ({"initializer_range": "0.1"}, "initializer_range"),
        (
            {"mixer_kwargs": {"delta_net": {"num_heads": "2"}}},
            "num_heads of delta_net must be int or None, got '2'",
        ),
    ],
)
def test_models_that_can_not_be(settings, message):
    wanted = TrackerSettings(mixer="delta_net", **settings)
    with pytest.raises(ValueError, match=message):
        build_tracker(wanted, make_task("parity"), 32)
