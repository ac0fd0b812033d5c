# SPDX-License-Identifier: Apache-2.0
"""The blocks of MossFormer2 against golden vectors, by pieces and packed."""

import re
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from seqlib_kernels import joint_attention
from torch import Tensor, nn

from seqlib.layers.fsmn import (
    ConvolvedProjection,
    GatedFsmn,
    GatedFsmnBlock,
    JointAttentionBlock,
    SequenceNorm,
)
from seqlib.layers.fsmn.norms import root_mean_square

GOLDEN = Path(__file__).parents[1] / "golden" / "mossformer2"

# Of the largest value; measured 6e-15 at most. Golden gradients of weights are float32: 6e-8.
TOLERANCE, ROUNDED = 1e-12, 1e-7

# Public names of parameters and ours, tried in this order.
RENAMED = (
    (r"\.mdl\.0\.g$", ".norm.gain"),
    (r"\.mdl\.0\.", ".norm."),
    (r"\.mdl\.1\.", ".linear."),
    (r"\.mdl\.3\.sequential\.1\.conv\.weight$", ".taps"),
    (r"^qk_offset_scale\.", ""),
    (r"(^|gated_)fsmn\.", r"\1memory."),
    (r"^gated_memory\.", "gated."),
    (r"^gated\.fsmn\.", "gated.memory."),
    (r"memory\.conv1\.weight$", "memory.taps"),
    (r"memory\.conv\.conv1\.weight$", "memory.convolutions.0.taps"),
    (r"memory\.conv\.conv2\.weight$", "memory.convolutions.1.taps"),
    (r"memory\.conv\.norm1\.weight$", "memory.convolutions.0.gain"),
    (r"memory\.conv\.norm2\.weight$", "memory.convolutions.1.gain"),
    (r"memory\.conv\.norm1\.bias$", "memory.convolutions.0.shift"),
    (r"memory\.conv\.norm2\.bias$", "memory.convolutions.1.shift"),
    (r"memory\.conv\.prelu1\.weight$", "memory.convolutions.0.slope"),
    (r"memory\.conv\.prelu2\.weight$", "memory.convolutions.1.slope"),
    (r"^conv1\.0\.", "reduce."),
    (r"^conv1\.1\.weight$", "slope"),
    (r"^conv2\.", "expand."),
    (r"^norm1\.", "norm_in."),
    (r"^norm2\.", "norm_out."),
)


def our_name(name: str) -> str:
    for pattern, ours in RENAMED:
        name = re.sub(pattern, ours, name)
    return name


def attention(options: dict[str, str]) -> nn.Module:
    sizes = {k: int(options[k]) for k in ("dim", "group_size", "query_key_dim", "rotary_dim")}
    block = JointAttentionBlock(**sizes, expansion=int(options["expansion"]))
    if options["causal"] == "True":
        # the public flag leaves the convolutions as they are and divides by the group's size
        block.causal, block.normalize = True, "group"
    return block


def unit(options: dict[str, str]) -> nn.Module:
    kind = "dilated" if "dilated" in options["block"] else "plain"
    return GatedFsmn(int(options["channels"]), memory=kind, order=int(options["lorder"]))


def block(options: dict[str, str]) -> nn.Module:
    kind = "dilated" if "Dilated" in options["block"] else "plain"
    order = int(options["lorder"])
    return GatedFsmnBlock(int(options["dim"]), int(options["inner"]), memory=kind, order=order)


GOLDENS = {
    "attention_exact": attention,
    "attention_pad": attention,
    "attention_short": attention,
    "attention_causal": attention,
    "gcu_dilated": unit,
    "gcu_plain": unit,
    "recurrent_block_dilated": block,
    "recurrent_block_plain": block,
}


def off(got: Tensor, want: Tensor) -> float:
    """The largest difference, relative to the largest value."""
    return ((got - want).abs().max() / want.abs().max()).item()


@pytest.mark.parametrize("name", GOLDENS)
def test_is_the_published_block_with_gradients(name):
    with safe_open(GOLDEN / f"{name}.safetensors", "pt") as file:
        arrays = {n: file.get_tensor(n) for n in file.keys()}  # noqa: SIM118
        module = GOLDENS[name](file.metadata())
    parameters = dict(module.named_parameters())
    public = {our_name(n[2:]): v for n, v in arrays.items() if n.startswith("w.")}
    public.pop("rotary_pos_emb.freqs", None)
    assert public.keys() == parameters.keys()
    module.load_state_dict({n: v.reshape(parameters[n].shape) for n, v in public.items()})
    module.double().eval()
    x = arrays["in.x"].requires_grad_()
    y, state = module(x)
    y.backward(arrays["ct.y"])
    assert state is None
    assert off(y, arrays["out.y"]) < TOLERANCE
    assert off(x.grad, arrays["gin.x"]) < TOLERANCE
    for n, v in arrays.items():
        if n.startswith("gw.") and not n.endswith("freqs"):
            grad = parameters[our_name(n[3:])].grad
            assert off(grad.reshape(v.shape), v.double()) < ROUNDED, n


def scrambled(module: nn.Module) -> nn.Module:
    """Parameters away from the values they start from, in float64."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.3)
    return module.double()


D = 6
MODULES = {
    "attention": lambda **kw: JointAttentionBlock(
        D, group_size=5, query_key_dim=5, rotary_dim=4, kernel_size=3, **kw
    ),
    "plain": lambda **kw: GatedFsmnBlock(D, 5, memory="plain", order=4, kernel_size=3, **kw),
    "dilated": lambda **kw: GatedFsmnBlock(
        D, 5, memory="dilated", order=3, depth=3, kernel_size=3, **kw
    ),
}
each_module = pytest.mark.parametrize("name", MODULES)


@pytest.fixture
def x() -> Tensor:
    return torch.randn(2, 23, D, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


@each_module
@pytest.mark.parametrize("causal", [False, True])
def test_packed_sequences_do_not_see_each_other(name, causal, x):
    module = scrambled(MODULES[name](causal=causal))
    bounds = [0, 1, 9, 9, 23]
    packed, _ = module(x[:1], cu_seqlens=torch.tensor(bounds))
    alone = torch.cat([module(x[:1, a:b])[0] for a, b in pairwise(bounds) if b > a], 1)
    torch.testing.assert_close(packed, alone, rtol=0, atol=1e-12)


@each_module
@pytest.mark.parametrize("cuts", [range(24), [0, 1, 4, 17, 18, 23], [0, 23]])
def test_going_on_from_a_state_is_one_call(name, cuts, x):
    module = scrambled(MODULES[name](causal=True))
    state, parts = None, []
    for a, b in pairwise(cuts):
        before = None if state is None else {k: v.clone() for k, v in state.items()}
        y, after = module(x[:, a:b], state=state, return_state=True)
        assert before is None or all(torch.equal(before[k], state[k]) for k in before)
        assert all(len(value) == len(x) for value in after.values())
        state = after
        parts.append(y)
    torch.testing.assert_close(torch.cat(parts, 1), module(x)[0], rtol=0, atol=1e-12)


@each_module
def test_rows_go_on_from_different_places(name, x):
    """As rows of unequal prompts do."""
    module = scrambled(MODULES[name](causal=True))
    _, short = module(x[:1, :4], return_state=True)
    _, long = module(x[1:, :11], return_state=True)
    state = {k: torch.cat((short[k], long[k])) for k in short}
    y, _ = module(torch.cat((x[:1, 4:12], x[1:, 11:19])), state=state)
    want = torch.cat((module(x[:1, :12])[0][:, 4:], module(x[1:, :19])[0][:, 11:]))
    torch.testing.assert_close(y, want, rtol=0, atol=1e-12)


@each_module
def test_the_future_changes_nothing_of_the_causal_form(name, x):
    module = scrambled(MODULES[name](causal=True))
    other = x.clone()
    other[:, 13:] *= -1e3
    assert torch.equal(module(other)[0][:, :13], module(x)[0][:, :13])


@each_module
def test_states_need_the_causal_form(name, x):
    with pytest.raises(ValueError, match="causal=False"):
        MODULES[name]().double()(x, return_state=True)


@each_module
def test_dropout_is_of_training_alone(name, x):
    module = scrambled(MODULES[name](dropout=0.5))
    torch.manual_seed(0)
    noisy = module(x)[0]
    assert not torch.equal(noisy, module(x)[0])
    torch.manual_seed(0)
    assert torch.equal(noisy, module(x)[0])
    module.eval()
    want = scrambled_like(MODULES[name](), module)(x)[0]
    assert torch.equal(module(x)[0], want)


def scrambled_like(module: nn.Module, other: nn.Module) -> nn.Module:
    module.double().load_state_dict(other.state_dict())
    return module


def test_dropout_reaches_the_attention_within_groups(x, monkeypatch):
    """What the projections drop is switched off here; columns of P keep their mean."""
    block = scrambled(JointAttentionBlock(D, group_size=23, query_key_dim=4, dropout=0.25))
    for projection in (block.to_hidden, block.to_qk, block.to_out):
        projection.dropout = 0.0
    given = []

    def spy(*arguments, **options):
        given.append(options)
        return joint_attention(*arguments, **options)

    monkeypatch.setattr("seqlib.layers.fsmn.attention.joint_attention", spy)
    torch.manual_seed(0)
    assert not torch.equal(block(x)[0], block(x)[0])
    keep, scale = given[0]["keep"], given[0]["keep_scale"]
    assert keep.shape == (2, 23, 23)
    assert abs(keep.double().mean() * scale - 1) < 0.03
    block.dropout = 0.0
    assert torch.equal(block(x)[0], block(x)[0])


def test_quiet_frames_count_as_loud_as_the_clamp(x):
    """Below it a scale norm is linear: frames of zeros stay finite, forward and backward."""
    projection = scrambled(ConvolvedProjection(D, 4, kernel_size=1))
    projection.linear.bias.detach().zero_()
    quiet = (1e-9 * x).requires_grad_()
    quiet.data[:, 3] = 0
    scale = projection.norm(root_mean_square(quiet))
    torch.testing.assert_close(scale, (projection.norm.gain / 1e-5).expand_as(scale))
    projection(quiet)[0].sum().backward()
    assert quiet.grad.isfinite().all()


def test_a_scale_norm_is_one_of_frames(x):
    projection = scrambled(ConvolvedProjection(D, 4, kernel_size=1))
    rms = x.square().mean(-1, keepdim=True).sqrt()
    h = nn.functional.linear(
        projection.norm.gain * x / rms, projection.linear.weight, projection.linear.bias
    )
    want = nn.functional.silu(h) * (1 + projection.taps[:, 0])
    torch.testing.assert_close(projection(x)[0], want, rtol=0, atol=1e-13)


def test_the_causal_norm_is_one_of_frames(x):
    norm = scrambled(SequenceNorm(D, 1e-8, causal=True))
    want = nn.functional.layer_norm(x, (D,), norm.weight, norm.bias, 1e-8)
    assert torch.equal(norm(x), want)


@pytest.mark.parametrize(
    ("build", "said"),
    [
        (lambda: ConvolvedProjection(4, 4, norm="batch"), "norm must be"),
        (lambda: GatedFsmn(4, memory="deep"), "memory must be"),
    ],
)
def test_unknown_kinds_have_a_name(build, said):
    with pytest.raises(ValueError, match=said):
        build()


def test_wide_projections_are_the_same_without_gradients():
    """Then they are made slice by slice on the CPU; the last slice is narrower."""
    torch.manual_seed(0)
    wide = ConvolvedProjection(8, 600).double()
    x = torch.randn(2, 50, 8, dtype=torch.float64)
    want, _ = wide(x)
    with torch.no_grad():
        got, _ = wide(x)
    torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-14)
