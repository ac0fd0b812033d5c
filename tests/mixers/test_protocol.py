# SPDX-License-Identifier: Apache-2.0
"""What a model relies on: states, padding, packing, the same for every mixer."""

from itertools import pairwise

import pytest
import torch

# float64, one order of sums against another; measured at most 4e-15 relative
CLOSE = {"rtol": 1e-11, "atol": 1e-12}


@pytest.mark.parametrize("cuts", [[1], [2], [3], [8], [1, 2, 3, 4, 5, 6, 7, 8]])
def test_pieces_with_the_state_equal_one_call(mixer, x, cuts):
    whole, last = mixer(x, return_state=True)
    state, outputs = None, []
    for piece in x.tensor_split(cuts, dim=1):
        y, state = mixer(piece, state=state, return_state=True)
        outputs.append(y)
    torch.testing.assert_close(torch.cat(outputs, 1), whole, **CLOSE)
    torch.testing.assert_close(state, last, **CLOSE)


# The largest error in units of the output's RMS. Measured: 2.2e-14, 7.6e-6, 0 and 6.6e-4.
STEPS = {torch.float64: 1e-12, torch.float32: 5e-5, torch.bfloat16: 0.02, torch.float16: 0.004}


@pytest.mark.parametrize("side", ["no padding", "left", "right"])
@pytest.mark.parametrize("dtype", STEPS, ids=str)
@torch.no_grad()
def test_a_prompt_of_any_length_then_single_tokens_equal_one_call(mixer, x, dtype, side):
    """Also prompts shorter than the convolution; padded rows are up to two tokens shorter."""
    mixer, x = mixer.to(dtype), x.to(dtype)
    whole, _ = mixer(x)
    scale = whole.float().square().mean().sqrt()
    B, T, _ = x.shape
    rows = torch.arange(B)
    for prompt in range(1, T):
        lengths = torch.full((B,), prompt)
        if side != "no padding":
            lengths = (prompt - rows).clamp_min(1)
        first = torch.where(torch.tensor(side == "left"), prompt - lengths, 0)
        at = torch.arange(prompt) - first[:, None]  # which token of its row, outside for padding
        mask = (at >= 0) & (at < lengths[:, None])
        padded = torch.where(mask[..., None], x[rows[:, None], at.clamp(0, T - 1)], 7.0)
        y, state = mixer(padded, mask=None if side == "no padding" else mask, return_state=True)
        error = (y - whole[rows[:, None], at.clamp(0, T - 1)])[mask].abs().max()
        for t in range(T - prompt):
            y, state = mixer(x[rows, lengths + t][:, None], state=state, return_state=True)
            error = torch.maximum(error, (y[:, 0] - whole[rows, lengths + t]).abs().max())
        assert error / scale < STEPS[dtype], prompt


@pytest.mark.parametrize("rows", [slice(None), slice(0)], ids=["no tokens", "no rows either"])
def test_a_call_without_tokens_leaves_the_state_alone(mixer, x, rows):
    _, before = mixer(x[rows], return_state=True)
    y, after = mixer(x[rows, :0], state=before, return_state=True)
    assert y.shape == (len(x[rows]), 0, x.shape[2])
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_a_call_without_a_state_asked_for_returns_none(mixer, x):
    y, state = mixer(x)
    assert state is None
    torch.testing.assert_close(y, mixer(x, return_state=True)[0], **CLOSE)


def test_later_tokens_change_nothing_before_them(mixer, x):
    y, _ = mixer(x)
    changed = x.clone()
    changed[:, 5] += 1
    y_changed, _ = mixer(changed)
    torch.testing.assert_close(y_changed[:, :5], y[:, :5], **CLOSE)
    assert ((y_changed - y)[:, 5:].abs().amax((0, 2)) > 1e-6).all()


def test_padding_anywhere_is_as_if_it_were_not_there(mixer, x):
    """In a first call and in one that continues, with rows of different lengths."""
    generator = torch.Generator().manual_seed(3)
    masks = [torch.rand(3, 9, generator=generator) < p for p in (0.5, 0.5)] + [
        torch.tensor([[True], [False], [True]])
    ]
    masks[0][0], masks[1][1] = False, False  # rows of nothing but padding
    pieces = [x, x.flip(1), x[:, :1]]
    state, rows = None, [None] * 3
    for mask, piece in zip(masks, pieces, strict=True):
        y, state = mixer(piece, state=state, mask=mask, return_state=True)
        noise = torch.where(mask[..., None], piece, 1e3)
        y_noise, _ = mixer(noise, mask=mask)
        torch.testing.assert_close(y_noise[mask], mixer(piece, mask=mask)[0][mask], **CLOSE)
        for b in range(3):
            if not mask[b].any():
                continue
            want, rows[b] = mixer(piece[b][mask[b]][None], state=rows[b], return_state=True)
            torch.testing.assert_close(y[b][mask[b]], want[0], **CLOSE)
    assert y.isfinite().all()
    for b, row in enumerate(rows):  # and every state goes on alike
        y_b, _ = mixer(x[b : b + 1], state={k: v[b : b + 1] for k, v in state.items()})
        torch.testing.assert_close(y_b, mixer(x[b : b + 1], state=row)[0], **CLOSE)


def test_packed_sequences_equal_separate_calls(mixer, x):
    bounds = torch.tensor([0, 2, 2, 3, 9], dtype=torch.int32)
    y, _ = mixer(x[:1], cu_seqlens=bounds)
    for start, stop in pairwise(bounds):
        if stop > start:
            want, _ = mixer(x[:1, start:stop])
            torch.testing.assert_close(y[:, start:stop], want, **CLOSE)


def test_gradients_reach_everything_through_the_state(mixer, x):
    x.requires_grad_()
    _, state = mixer(x[:, :4], return_state=True)
    for piece in (x[:, 4:6], x[:, 6:7]):  # several tokens, then a single step
        y, state = mixer(piece, state=state, return_state=True)
    parameters = dict(mixer.named_parameters())
    grads = torch.autograd.grad(y.square().sum(), (x, *parameters.values()))
    whole = mixer(x[:, :7])[0][:, 6].square().sum()
    wanted = torch.autograd.grad(whole, (x, *parameters.values()))
    for name, got, want in zip(("x", *parameters), grads, wanted, strict=True):
        torch.testing.assert_close(got, want, msg=lambda m, n=name: f"{n}: {m}", **CLOSE)
        assert got.abs().max() > 0, name


@torch.no_grad()
def test_states_of_recurrences_have_one_size(mixer, x):
    """Also in memory: a state that is a part of something larger would keep all of it."""
    sizes = []
    for T in (1, 5, 9):
        _, state = mixer(x[:, :T], return_state=True)
        assert all(value.shape[0] == 3 for value in state.values())
        for name, value in state.items():
            assert value.untyped_storage().nbytes() == value.nbytes, name
        sizes.append(sum(value.numel() for value in state.values()))
    if mixer.layer_type == "linear_attention":
        assert len(set(sizes)) == 1
    else:
        assert sizes[1] == 5 * sizes[0]


# measured: at most 0.017 in bfloat16, 0.0017 in float16
@pytest.mark.parametrize(("dtype", "bound"), [(torch.bfloat16, 0.03), (torch.float16, 0.003)])
def test_16_bits_stay_close_to_float32(mixer, x, dtype, bound):
    want, _ = mixer.float()(x.float())
    y, state = mixer.to(dtype)(x.to(dtype), return_state=True)
    assert y.dtype == dtype
    error = (y.float() - want).norm() / want.norm()
    assert error < bound
    step, _ = mixer(x[:, :1].to(dtype), state=state)
    assert step.dtype == dtype
    assert step.isfinite().all()


@pytest.mark.parametrize("extra", ["state", "mask", "return_state"])
def test_packed_sequences_refuse_what_can_not_go_with_them(mixer, x, extra):
    _, state = mixer(x[:1], return_state=True)
    given = {"state": state, "mask": torch.ones(1, 9, dtype=torch.bool), "return_state": True}
    with pytest.raises(ValueError, match="cu_seqlens goes with neither"):
        mixer(x[:1], cu_seqlens=torch.tensor([0, 9]), **{extra: given[extra]})


def test_boundaries_may_lie_on_the_cpu_beside_inputs_elsewhere(mixer, x):
    """Here a device that only knows shapes."""
    y, _ = mixer.to("meta")(x[:1].to("meta"), cu_seqlens=torch.tensor([0, 4, 9]))
    assert y.shape == (1, 9, x.shape[2])
