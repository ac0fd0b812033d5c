# SPDX-License-Identifier: Apache-2.0
"""Ratios and permutations of separated sources: definitions, edges, and other packages' values."""

import itertools
import math

import numpy as np
import pytest
import torch

from seqlib.evaluation.intervals import bootstrap_mean
from seqlib.evaluation.separation import (
    best_permutation,
    improvements,
    is_silent,
    match,
    si_sdr,
    si_snr,
    snr,
)
from seqlib.evaluation.separation_libraries import (
    PACKAGES,
    check_metrics,
    installed_metrics,
    library_metric,
)

INF = math.inf


@pytest.fixture
def sources():
    """Two signals of a second at 8 kHz, with slow envelopes as speech has."""
    draw = torch.Generator().manual_seed(0)
    time = torch.arange(16000) / 8000
    envelopes = torch.stack([(3 * time).sin().abs(), (5 * time + 1).cos().abs()])
    return torch.randn(2, 16000, generator=draw) * envelopes + torch.tensor([[0.1], [-0.2]])


def leaky(sources, leak):
    return sources + leak * sources.flip(0)


def plain(estimate, reference, centred):
    """The definition, sample by sample in Python."""
    e, r = estimate.tolist(), reference.tolist()
    if centred:
        e = [v - sum(e) / len(e) for v in e]
        r = [v - sum(r) / len(r) for v in r]
    scale = sum(x * y for x, y in zip(e, r, strict=True)) / sum(y * y for y in r)
    target = [scale * y for y in r]
    noise = sum((x - t) ** 2 for x, t in zip(e, target, strict=True))
    return 10 * math.log10(sum(t * t for t in target) / noise)


def test_ratios_are_their_definitions(sources):
    short = sources[:, :97]
    for estimate, reference in itertools.product(leaky(short, 0.1), short):
        assert float(si_snr(estimate, reference)) == pytest.approx(plain(estimate, reference, True))
        assert float(si_sdr(estimate, reference)) == pytest.approx(
            plain(estimate, reference, False)
        )
    noise = (leaky(short, 0.1) - short).double()
    wanted = 10 * (short.double().square().sum(-1) / noise.square().sum(-1)).log10()
    torch.testing.assert_close(snr(leaky(short, 0.1), short), wanted, rtol=1e-6, atol=0)


def test_scale_and_mean_do_not_count(sources):
    estimate = leaky(sources, 0.3).double()
    wanted = si_snr(estimate, sources)
    torch.testing.assert_close(si_snr(-50 * estimate + 3, sources * 0.01), wanted)
    torch.testing.assert_close(si_sdr(-50 * estimate, sources * 0.01), si_sdr(estimate, sources))
    assert abs(float((si_sdr(estimate + 3, sources) - si_sdr(estimate, sources))[0])) > 1
    assert wanted.dtype == torch.float64


def test_the_ratio_of_a_known_leak():
    """Orthogonal signals of equal energy: a leak of 0.1 is 20 dB."""
    time = torch.arange(8000, dtype=torch.float64) / 8000
    pair = torch.stack([(2 * math.pi * 440 * time).sin(), (2 * math.pi * 220 * time).sin()])
    torch.testing.assert_close(si_snr(leaky(pair, 0.1), pair), torch.full((2,), 20.0).double())


def test_silence_has_no_value_and_is_counted(sources):
    references = torch.stack([sources[0], torch.zeros(16000)])
    found = si_snr(sources, references)
    assert found.isnan().tolist() == [False, True]
    assert snr(sources, references).isnan().tolist() == [False, True]
    assert is_silent(torch.full((3, 100), 0.3)).all()  # a constant says nothing
    values = improvements(sources, references, sources.sum(0))
    mean = bootstrap_mean(values["si_snri"])
    assert (mean.items, mean.excluded) == (1, 1)
    assert mean.value == pytest.approx(float(found[0] - si_snr(sources.sum(0), sources[0])))
    assert si_snr(torch.zeros(8), torch.zeros(8)).isnan()


def test_an_estimate_of_nothing_is_worst_and_of_everything_best(sources):
    assert si_snr(torch.zeros(16000), sources[0]) == -INF
    assert si_sdr(torch.zeros(16000), sources[0]) == -INF
    tone = torch.tensor([1.0, -1.0]).repeat(50)
    assert si_snr(4 * tone, tone) == INF
    assert si_snr(torch.full((100,), torch.nan), tone).isnan()


def test_estimates_are_put_in_order(sources):
    estimates = leaky(sources, 0.1).flip(0)
    ordered, order = match(estimates, sources)
    assert order == [1, 0]
    assert torch.equal(ordered, estimates.flip(0))
    three = torch.cat([sources, sources.roll(50, -1)[:1]])
    for shuffle in itertools.permutations(range(3)):
        assert match(three[list(shuffle)], three)[1] == [shuffle.index(i) for i in range(3)]


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5])
def test_the_order_is_the_best_of_all(count):
    pytest.importorskip("scipy")
    rng = np.random.default_rng(count)
    columns = list(range(count))
    for _ in range(20):
        values = torch.from_numpy(rng.normal(size=(count, count)))
        best = max(
            itertools.permutations(columns), key=lambda o: float(values[list(o), columns].sum())
        )
        assert best_permutation(values) == list(best)


@pytest.mark.parametrize("count", [2, 4])
def test_orders_with_silence_and_infinity(count):
    pytest.importorskip("scipy")
    values = torch.full((count, count), -5.0)
    values[:, 0] = torch.nan  # the first reference is silent
    values[0, 1] = INF
    values[1, 1] = -INF
    order = best_permutation(values)
    assert order[1] == 0
    assert sorted(order) == list(range(count))


def test_ties_go_to_the_first_order():
    assert best_permutation(torch.zeros(3, 3)) == [0, 1, 2]
    assert best_permutation(torch.full((2, 2), torch.nan)) == [0, 1]


def test_what_can_not_be_compared(sources):
    with pytest.raises(ValueError, match="same number of samples"):
        si_snr(sources[:, 1:], sources)
    with pytest.raises(ValueError, match="at least one"):
        si_snr(sources[:, :0], sources[:, :0])
    with pytest.raises(ValueError, match=r"as many estimates as references.*\(3, 2\)"):
        match(torch.randn(3, 16000), sources)


def test_intervals_hold_the_mean_and_shrink_with_items():
    rng = np.random.default_rng(0)
    some = rng.normal(5, 2, size=25).tolist()
    few, many = bootstrap_mean(some), bootstrap_mean(rng.normal(5, 2, size=2500).tolist())
    assert few.low < few.value < few.high
    assert few.high - few.low == pytest.approx(2 * 1.96 * 2 / 25**0.5, rel=0.4)
    assert many.high - many.low == pytest.approx(2 * 1.96 * 2 / 2500**0.5, rel=0.15)
    assert bootstrap_mean(some) == few
    assert bootstrap_mean(some, seed=1) != few


def test_means_of_nothing_and_of_infinity():
    none = bootstrap_mean([math.nan])
    assert math.isnan(none.value)
    assert (none.items, none.excluded) == (0, 1)
    assert bootstrap_mean([1.0, -INF]).value == -INF


def test_torchmetrics_agrees(sources):
    audio = pytest.importorskip("torchmetrics.functional.audio")
    estimates = leaky(sources, 0.1).double()
    theirs = audio.scale_invariant_signal_noise_ratio(estimates, sources.double())
    torch.testing.assert_close(si_snr(estimates, sources), theirs, rtol=1e-9, atol=0)
    theirs = audio.scale_invariant_signal_distortion_ratio(estimates, sources.double())
    torch.testing.assert_close(si_sdr(estimates, sources), theirs, rtol=1e-9, atol=0)
    best, order = audio.permutation_invariant_training(
        estimates.flip(0)[None],
        sources.double()[None],
        audio.scale_invariant_signal_noise_ratio,
        eval_func="max",
    )
    ordered, ours = match(estimates.flip(0), sources)
    assert order[0].tolist() == ours
    assert float(si_snr(ordered, sources).mean()) == pytest.approx(float(best[0]))


def test_fast_bss_eval_agrees(sources):
    bss = pytest.importorskip("fast_bss_eval")
    estimates = leaky(sources, 0.1)
    theirs = bss.si_sdr(sources.double(), estimates.double())
    torch.testing.assert_close(si_sdr(estimates, sources), theirs, rtol=1e-6, atol=1e-6)
    mixture = sources.sum(0)
    values = library_metric("sdr", estimates, sources, mixture, 8000)
    theirs = bss.sdr(sources.double(), estimates.double())
    # allows 512 taps of filter, so more than the scale-invariant ratio
    assert values["sdr"] == pytest.approx(theirs.tolist(), rel=1e-6)
    assert min(values["sdr"]) > float(si_sdr(estimates, sources).min())
    before = bss.sdr(sources.double(), mixture.double().expand(2, -1))
    assert values["sdri"] == pytest.approx((theirs - before).tolist(), rel=1e-6)


@pytest.mark.parametrize("name", PACKAGES)
def test_library_metrics_leave_silence_out(name, sources):
    pytest.importorskip(PACKAGES[name][0])
    references = torch.stack([torch.zeros(16000), sources[1]])
    values = library_metric(name, leaky(sources, 0.1), references, sources.sum(0), 8000)
    assert math.isnan(values[name][0])
    assert math.isfinite(values[name][1])
    nothing = library_metric(name, sources, torch.zeros(2, 16000), sources.sum(0), 8000)
    assert all(math.isnan(v) for row in nothing.values() for v in row)


@pytest.mark.parametrize("name", ["stoi", "estoi", "pesq"])
def test_library_metrics_leave_out_what_is_too_short(name, sources):
    pytest.importorskip(PACKAGES[name][0])
    values = library_metric(name, sources[:, :1000], sources[:, :1000], sources[0, :1000], 8000)
    assert all(math.isnan(v) for v in values[name])


@pytest.mark.parametrize("name", ["stoi", "estoi", "pesq"])
def test_library_metrics_know_better_from_worse(name, sources):
    pytest.importorskip(PACKAGES[name][0])
    good, bad = (
        library_metric(name, leaky(sources, leak), sources, sources.sum(0), 8000)[name]
        for leak in (0.01, 1.0)
    )
    assert all(a > b for a, b in zip(good, bad, strict=True))


def test_metrics_are_checked_before_anything_runs(monkeypatch):
    with pytest.raises(ValueError, match=r"no metric 'stio'; did you mean 'stoi'"):
        check_metrics(["stio"], 8000)
    if "pesq" in installed_metrics():
        with pytest.raises(ValueError, match="pesq is defined at 8000 and 16000 Hz: 48000"):
            check_metrics(["pesq"], 48000)
    monkeypatch.setitem(PACKAGES, "stoi", ("a_module_that_is_not_there", "pystoi"))
    with pytest.raises(ImportError, match="'stoi' needs the package pystoi"):
        check_metrics(["stoi"], 8000)
    assert "stoi" not in installed_metrics()
