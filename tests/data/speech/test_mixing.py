# SPDX-License-Identifier: Apache-2.0
"""Levels, trimming and sums of mixtures."""

import numpy as np
import pytest

from seqlib.data.speech.mixing import active_level, change_speed, mix, trim

RATE, FRAME = 8000, 160


def noise(seed, frames, level=0.1):
    return level * np.random.default_rng(seed).standard_normal(frames * FRAME)


def test_level_counts_frames_within_40_decibels():
    loud, quiet = np.full(5 * FRAME, 0.5), np.full(5 * FRAME, 0.5 * 10 ** (-39 / 20))
    pause = np.full(50 * FRAME, 0.5 * 10 ** (-41 / 20))
    both = np.sqrt((0.25 + 0.25 * 10**-3.9) / 2)
    assert active_level(np.concatenate([loud, quiet, pause]), RATE) == pytest.approx(both, rel=1e-9)
    assert active_level(np.zeros(1000), RATE) == 0.0
    # a rest of half a frame counts by its own samples
    assert active_level(np.full(3 * FRAME + 80, 0.3), RATE) == pytest.approx(0.3)


def test_trim_keeps_two_frames_at_each_end():
    zeros = np.zeros(10 * FRAME)
    inside = np.full(4 * FRAME, 0.2)
    assert len(trim(np.concatenate([zeros, inside, zeros]), RATE)) == 8 * FRAME
    assert len(trim(np.concatenate([inside, zeros[:FRAME]]), RATE)) == 5 * FRAME
    assert len(trim(zeros, RATE)) == 0


def test_relative_level_sum_and_peak():
    a, b = noise(0, 50), noise(1, 80, 0.003)
    mixed = mix([a, b], (1.5, -1.5), RATE)
    assert mixed.sources.shape == (2, 50 * FRAME)
    levels = [active_level(s, RATE) for s in (mixed.sources[0], mixed.sources[1])]
    cut = active_level(b[: 50 * FRAME], RATE) / active_level(b, RATE)  # levels are of whole ones
    assert 20 * np.log10(levels[0] / levels[1] * cut) == pytest.approx(3.0, abs=1e-4)
    assert np.abs(mixed.mixture - mixed.sources.sum(0)).max() < 1e-6
    peak = max(np.abs(mixed.mixture).max(), np.abs(mixed.sources).max())
    assert peak == pytest.approx(0.9, abs=1e-6)
    assert mixed.mixture.dtype == mixed.sources.dtype == np.float32


def test_max_mode_pads_to_the_longest():
    mixed = mix([noise(0, 50), noise(1, 80)], (0.0, 0.0), RATE, mode="max")
    assert mixed.mixture.shape == (80 * FRAME,)
    assert not mixed.sources[0, 50 * FRAME :].any()
    assert np.abs(mixed.mixture - mixed.sources.sum(0)).max() < 1e-6


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"gains": (0.0,)}, "one number per source, got 1 for 2"),
        ({"mode": "mid"}, "mode must be 'min' or 'max', got 'mid'"),
        ({"sources": (noise(0, 3), np.zeros(9))}, "must hold sound, one is silent"),
    ],
)
def test_what_can_not_be_mixed(arguments, message):
    given = {"sources": (noise(0, 3), noise(1, 4)), "gains": (0.0, 0.0), **arguments}
    with pytest.raises(ValueError, match=message):
        mix(sampling_rate=RATE, **given)


@pytest.mark.parametrize("percent", [95, 100, 105])
def test_speed_changes_length_and_pitch(percent):
    x = np.sin(0.3 * np.arange(4000))
    y = change_speed(x, percent)
    assert len(y) == -(-4000 * 100 // percent)
    wanted = np.sin(0.3 * percent / 100 * np.arange(len(y)))
    assert np.abs(y - wanted)[100:-100].max() < 5e-6
