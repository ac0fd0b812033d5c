# SPDX-License-Identifier: Apache-2.0
"""Windows of a long recording: speakers stay in order, borders can't be heard, length is exact."""

import itertools

import pytest
import torch
from torch import Tensor

from seqlib.models.mossformer2.chunked import run_in_chunks


def voices(count: int, length: int) -> Tensor:
    """[count, length] noise that is always heard."""
    return torch.randn(count, length, generator=torch.Generator().manual_seed(0))


class Shuffling:
    """A perfect network that knows sources by position and gives them in any order."""

    def __init__(self, sources: Tensor):
        self.sources = sources
        self.orders = itertools.cycle(itertools.permutations(range(len(sources))))
        self.windows: list[int] = []
        self.starts: list[int] = []

    def __call__(self, samples: Tensor) -> Tensor:
        length, start = samples.shape[1], int(samples.storage_offset())  # a view of the mixture
        self.windows.append(length)
        self.starts.append(start)
        return self.sources[list(next(self.orders)), start : start + length][None]


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("length", [101, 200, 377])
def test_speakers_stay_in_order(count, length):
    """Every window comes in another order; the result is in that of the first."""
    sources = voices(count, length)
    network = Shuffling(sources)
    found = run_in_chunks(network, sources.sum(0), window=100, overlap=25)
    torch.testing.assert_close(found, sources)
    assert set(network.windows) == {100}


def test_short_recordings_are_one_pass():
    sources = voices(2, 100)
    network = Shuffling(sources)
    found = run_in_chunks(network, sources.sum(0), window=100, overlap=25)
    assert torch.equal(found, sources)
    assert network.windows == [100]


def talk(count: int, seconds: int, rate: int) -> Tensor:
    """[count, T] speakers who talk in words of 0.2 to 0.5 s between pauses of up to 0.6 s."""
    generator = torch.Generator().manual_seed(2)
    sources = torch.randn(count, seconds * rate, generator=generator)
    for source in sources:
        place = 0
        while place < len(source):
            pause, word = torch.rand(2, generator=generator).tolist()
            place += round((0.2 + 0.3 * word) * rate)
            stop = place + round(0.6 * pause * rate)
            source[place:stop] = 0
            place = stop
    return sources


@pytest.mark.parametrize("count", [2, 3])
def test_speakers_stay_themselves_through_ten_minutes(count):
    """A network that leaks and errs at 13 dB and gives every window in another order."""
    rate, seconds = 200, 600
    sources = talk(count, seconds, rate)
    network = Shuffling(sources)
    noise = torch.Generator().manual_seed(3)

    def leaking(samples: Tensor) -> Tensor:
        clean = network(samples)
        error = torch.randn(clean.shape, generator=noise)
        return clean + 0.15 * clean.flip(1) + 0.15 * error

    found = run_in_chunks(leaking, sources.sum(0), window=4 * rate, overlap=rate)
    pieces = 10 * rate
    for start in range(0, seconds * rate, pieces):
        part = torch.cat([sources, found])[:, start : start + pieces]
        alike = torch.corrcoef(part)[:count, count:]
        assert alike.argmax(1).tolist() == list(range(count)), start
    assert len(network.starts) <= 1.5 * seconds / 3


def test_overlap_grows_into_a_pause():
    """A pause longer than the overlap: the next window starts where voices can still be told."""
    sources = voices(2, 175)
    sources[:, 70:110] = 0
    network = Shuffling(sources)
    found = run_in_chunks(network, sources.sum(0), window=100, overlap=25)
    torch.testing.assert_close(found, sources)
    assert 50 <= network.starts[1] < 70


def test_one_voice_tells_the_other():
    """Where one of two is silent in the overlap, the other one decides."""
    sources = voices(2, 300)
    sources[0, 60:120] = 0
    network = Shuffling(sources)
    found = run_in_chunks(network, sources.sum(0), window=100, overlap=25)
    torch.testing.assert_close(found, sources)
    assert network.starts[1] == 75


def test_long_pause_keeps_the_last_order():
    """Nothing tells the voices apart: the network's order is taken to go on."""
    sources = voices(2, 175)
    sources[:, 40:110] = 0
    starts = []

    def network(samples: Tensor) -> Tensor:
        starts.append(0 if len(starts) == 0 else 75)
        return sources[[1, 0], starts[-1] : starts[-1] + 100][None]

    found = run_in_chunks(network, sources.sum(0), window=100, overlap=25)
    torch.testing.assert_close(found, sources[[1, 0]])


def test_silence_and_nan_pass_through():
    silent = run_in_chunks(
        lambda x: x.new_zeros(1, 2, x.shape[1]), torch.zeros(300), window=100, overlap=25
    )
    assert not silent.any()
    broken = run_in_chunks(
        lambda x: torch.full((1, 2, x.shape[1]), torch.nan), torch.zeros(300), window=100, overlap=9
    )
    assert broken.isnan().all()


def test_borders_fade():
    """Two windows with different levels: no jump above the step of a fade."""
    levels = iter([0.0, 1.0])
    found = run_in_chunks(
        lambda x: x.new_full((1, 1, x.shape[1]), next(levels)),
        torch.ones(175),
        window=100,
        overlap=25,
    )
    assert found.diff().min() >= 0
    assert found.diff().max() < 0.07
    assert found[0, 0] == 0
    assert found[0, -1] == 1


@pytest.mark.parametrize("overlap", [0, 51])
def test_overlap_is_checked(overlap):
    with pytest.raises(
        ValueError, match=f"overlap must be from 1 to half of window=100.*{overlap}"
    ):
        run_in_chunks(lambda x: x[:, None], torch.ones(300), window=100, overlap=overlap)


def test_rank_is_checked():
    with pytest.raises(ValueError, match=r"samples must have shape \(T,\), got \(2, 300\)"):
        run_in_chunks(lambda x: x[:, None], torch.ones(2, 300), window=100, overlap=10)
