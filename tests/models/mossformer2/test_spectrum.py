# SPDX-License-Identifier: Apache-2.0
"""Features as Kaldi computes them, spectra and their way back."""

import torch

from seqlib.models.mossformer2.spectrum import features, from_spectrum, num_frames, to_spectrum

RATE, FREQUENCIES = 8000, 161  # windows of 320 samples every 64


def sound(length: int = 3200) -> torch.Tensor:
    """A low tone and a rising one, off zero."""
    n = torch.arange(length, dtype=torch.float64)
    t = n / RATE
    low, rising = torch.sin(600 * torch.pi * t), torch.sin(2 * torch.pi * t * (500 + 2000 * t))
    return (0.3 * low + 0.1 * rising + 0.01)[None]


def test_energies_are_those_of_kaldi():
    """First and last frame by kaldi-native-fbank 1.23.0 (float32; 8 bins, 40 ms, 8 ms, Hamming, no
    dither), four digits behind the point.
    """
    frames = torch.tensor([46])
    found = features(sound(), frames, 8, FREQUENCIES, RATE)
    assert found.shape == (1, 46, 24)
    first = [24.3142, 24.7718, 23.9996, 17.1145, 15.5177, 15.0631, 14.7893, 14.6724]
    last = [24.3139, 24.6185, 16.1244, 15.7988, 16.4816, 26.0904, 25.5835, 15.3295]
    expected = torch.tensor([first, last], dtype=torch.float64)
    torch.testing.assert_close(found[0, [0, -1], :8], expected, rtol=0, atol=1e-4)


def test_slopes_are_those_of_lines():
    """Behind both ends the first and the last frame go on."""
    frames = torch.tensor([46])
    found = features(sound(), frames, 8, FREQUENCIES, RATE)[0]
    energy, slope, curvature = found.split(8, -1)
    for x, y in ((energy, slope), (slope, curvature)):
        longer = torch.cat([x[:1], x[:1], x, x[-1:], x[-1:]])
        lines = longer.unfold(0, 5, 1) @ torch.tensor([-2.0, -1, 0, 1, 2]).double() / 10
        torch.testing.assert_close(y, lines)


def test_padding_changes_no_features():
    """A row with fewer frames is what it is alone."""
    short = sound()[:, :1000]
    alone = features(short, torch.tensor([11]), 8, FREQUENCIES, RATE)
    padded = torch.cat([short, torch.zeros(1, 2200)], 1)
    both = features(torch.cat([sound(), padded]), torch.tensor([46, 11]), 8, FREQUENCIES, RATE)
    torch.testing.assert_close(both[1, :11], alone[0])


def test_spectrum_is_torchs_and_comes_back():
    x = sound(3277)
    spectrum = to_spectrum(x, FREQUENCIES)
    window = torch.hamming_window(320, periodic=False, dtype=torch.float64)
    torch.testing.assert_close(
        spectrum,
        torch.stft(x, 320, 64, 320, window, center=False, return_complex=True).transpose(1, 2),
    )
    back = from_spectrum(spectrum, 3277, torch.tensor([47]))
    covered = 46 * 64 + 320
    torch.testing.assert_close(back[:, :covered], x[:, :covered])
    assert not back[:, covered:].any()
    part = from_spectrum(spectrum, 3277, torch.tensor([11]))
    torch.testing.assert_close(part[:, :960], x[:, :960])
    assert not part[:, 960:].any()


def test_frames_are_counted():
    lengths = torch.tensor([320, 321, 384, 385])
    assert num_frames(lengths, FREQUENCIES).tolist() == [1, 2, 2, 3]
