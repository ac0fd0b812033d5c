# SPDX-License-Identifier: Apache-2.0
"""Sound by the piece gives what one pass gives."""

import pytest
import torch

from seqlib.models.mossformer2 import MossFormer2Config, MossFormer2ForSpeechSeparation, Streamer

TOLERANCE = 1e-10  # float64


def make_network(**changes) -> MossFormer2ForSpeechSeparation:
    torch.manual_seed(0)
    sizes = {"causal": True, "num_hidden_layers": 2, "group_size": 8, "encoder_kernel_size": 8}
    sizes |= {"hidden_size": 16, "inner_size": 12, "query_key_dim": 12, "fsmn_order": 4}
    network = MossFormer2ForSpeechSeparation(MossFormer2Config(**(sizes | changes)))
    with torch.no_grad():  # fresh gains make the attention vanish
        for name, parameter in network.named_parameters():
            if name.endswith(("gamma", "beta")):
                parameter.normal_()
    return network.double().eval()


def sound(batch: int, length: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(batch, length, dtype=torch.float64, generator=generator)


def streamed(streamer: Streamer, samples: torch.Tensor, pieces: list[int]) -> torch.Tensor:
    found = [streamer.push(piece) for piece in samples.split(pieces, 1)]
    return torch.cat([*found, streamer.flush()], -1)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"memory": "plain"},
        {"attention_normalize": "group"},
        {"mask_mode": "direct"},
        {"num_speakers": 3, "fsmn_depth": 3},
    ],
    ids=str,
)
@pytest.mark.parametrize(
    "pieces",
    [[203], [8] + [4] * 48 + [3], [1] * 203, [150, 0, 53], [3, 100, 6, 94]],
    ids=["whole", "frames", "samples", "two", "uneven"],
)
def test_pieces_equal_one_pass(changes, pieces):
    """Frames of 8 samples, groups of 8 frames: borders fall everywhere."""
    network = make_network(**changes)
    samples = sound(2, 203)
    with torch.no_grad():
        whole = network(input_values=samples).sources
    found = streamed(Streamer(network), samples, pieces)
    assert found.shape == whole.shape
    assert (found - whole).abs().max() <= TOLERANCE * whole.abs().max()


def test_delay_is_less_than_a_frame():
    network = make_network()
    streamer = Streamer(network)
    came = 0
    for went in range(1, 60):
        came += streamer.push(sound(1, 1)).shape[2]
        assert came >= went - 7
    assert came == 52


def test_the_future_changes_nothing():
    samples = sound(2, 200)
    changed = samples.clone()
    changed[:, 120:] = 100.0
    before = Streamer(make_network()).push(samples)
    after = Streamer(make_network()).push(changed)
    assert torch.equal(before[..., :112], after[..., :112])
    assert not torch.equal(before, after)


def test_copies_go_on_alone():
    network = make_network()
    samples = sound(1, 160)
    streamer = Streamer(network)
    streamer.push(samples[:, :90])
    other = streamer.copy()
    streamer.push(-samples[:, 90:])
    streamer.flush()
    with torch.no_grad():
        whole = network(input_values=samples).sources
    rest = torch.cat([other.push(samples[:, 90:]), other.flush()], -1)
    torch.testing.assert_close(rest, whole[..., 160 - rest.shape[2] :], rtol=0, atol=TOLERANCE)


def test_a_flushed_streamer_begins_anew():
    network = make_network()
    samples = sound(2, 77)
    streamer = Streamer(network)
    first = streamed(streamer, samples, [40, 37])
    second = streamed(streamer, samples[:1], [40, 37])
    torch.testing.assert_close(second, first[:1], rtol=0, atol=TOLERANCE)


def test_what_is_kept_does_not_grow():
    streamer = Streamer(make_network())
    sizes = set()
    for _ in range(20):
        streamer.push(sound(1, 64))
        assert streamer._state is not None
        sizes.add(sum(value.numel() for value in streamer._state.values()))
    assert len(sizes) == 1


def test_refused():
    with pytest.raises(ValueError, match="causal must be True"):
        Streamer(make_network(causal=False))
    with pytest.raises(ValueError, match="evaluation mode"):
        Streamer(make_network().train())
    streamer = Streamer(make_network())
    with pytest.raises(ValueError, match=r"samples must have shape \(B, n\), got \(4,\)"):
        streamer.push(torch.ones(4))
    streamer.push(torch.ones(2, 7))
    with pytest.raises(ValueError, match="must have B=2 as before, got 1"):
        streamer.push(torch.ones(1, 7))
    with pytest.raises(ValueError, match="at least 8 samples, one frame, got 7"):
        streamer.flush()
