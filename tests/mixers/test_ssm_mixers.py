# SPDX-License-Identifier: Apache-2.0
"""S4 and S5 beyond what every mixer does: both directions, what is learned, where it starts."""

import copy
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from seqlib.layers.optim import tag_parameters
from seqlib.layers.ssm_init import hippo, ptd_init
from seqlib.mixers import MIXERS
from seqlib.mixers.ssm_core import PERTURBED
from seqlib.mixers.ssm_dropout import SequenceDropout

D = 24
CLOSE = {"rtol": 1e-11, "atol": 1e-12}
LSSL = {"mode": "dense", "init": "legs", "discretization": "bilinear"}
BOTH_WAYS = {
    "s4": ("s4", {"d_state": 8, "channels": 2, "n_ssm": 2}),
    "s5": ("s5", {"d_state": 8, "activation": "half_glu2"}),
}


@pytest.fixture(params=BOTH_WAYS)
def both_ways(request):
    torch.manual_seed(0)
    name, options = BOTH_WAYS[request.param]
    return MIXERS[name](D, bidirectional=True, **options).double()


class TestBothDirections:
    def test_every_token_changes_every_output(self, both_ways, x):
        y, _ = both_ways(x)
        for t in (0, 4, 8):
            changed = x.clone()
            changed[:, t] += 1
            assert ((both_ways(changed)[0] - y).abs().amax((0, 2)) > 1e-8).all()

    def test_padding_anywhere_is_as_if_it_were_not_there(self, both_ways, x):
        mask = torch.rand(3, 9, generator=torch.Generator().manual_seed(3)) < 0.6
        mask[1] = False
        y, _ = both_ways(torch.where(mask[..., None], x, 1e3), mask=mask)
        for b in (0, 2):
            torch.testing.assert_close(y[b][mask[b]], both_ways(x[b][mask[b]][None])[0][0], **CLOSE)

    def test_packed_sequences_equal_separate_calls(self, both_ways, x):
        bounds = torch.tensor([0, 2, 2, 3, 9])
        y, _ = both_ways(x[:1], cu_seqlens=bounds)
        for start, stop in pairwise(bounds):
            if stop > start:
                want, _ = both_ways(x[:1, start:stop])
                torch.testing.assert_close(y[:, start:stop], want, **CLOSE)

    def test_there_is_no_state(self, both_ways, x):
        with pytest.raises(ValueError, match="must be left out with bidirectional=True"):
            both_ways(x, return_state=True)
        with pytest.raises(ValueError, match="must be left out with bidirectional=True"):
            both_ways(x, state={"recurrent": torch.zeros(3)})


class TestDropout:
    def test_one_draw_per_sequence_and_channel(self):
        torch.manual_seed(0)
        dropout = SequenceDropout(0.25, tied=True)
        y = dropout(torch.ones(50, 7, 40))
        assert torch.equal(y, y[:, :1].expand_as(y))
        torch.testing.assert_close(y.unique(), torch.tensor([0.0, 1 / 0.75]))
        assert (y == 0).float().mean().item() == pytest.approx(0.25, abs=0.04)

    def test_packed_sequences_have_draws_of_their_own(self):
        torch.manual_seed(0)
        bounds = torch.tensor([0, 2, 2, 9])
        y = SequenceDropout(0.5, tied=True)(torch.ones(1, 9, 64), bounds)[0]
        assert torch.equal(y[:2], y[:1].expand(2, -1))
        assert torch.equal(y[2:], y[2:3].expand(7, -1))
        assert not torch.equal(y[0], y[2])

    def test_untied_draws_differ_between_tokens(self):
        torch.manual_seed(0)
        y = SequenceDropout(0.5, tied=False)(torch.ones(1, 2, 64))[0]
        assert not torch.equal(y[0], y[1])

    def test_evaluation_drops_nothing(self):
        x = torch.randn(2, 3, 4)
        assert SequenceDropout(0.5, tied=True).eval()(x) is x

    @pytest.mark.parametrize("name", ["s4", "s5"])
    def test_mixers_drop_in_training_only(self, name, x):
        torch.manual_seed(0)
        mixer = MIXERS[name](D, d_state=8, dropout=0.5).double()
        assert not torch.equal(mixer(x)[0], mixer(x)[0])
        mixer.eval()
        assert torch.equal(mixer(x)[0], mixer(x)[0])


def tags(mixer) -> dict[str, dict[str, float]]:
    tag_parameters(mixer)
    named = ((n.removeprefix("ssm."), p) for n, p in mixer.named_parameters())
    return {n: getattr(p, "_optim", {}) for n, p in named}


class TestLearning:
    def test_the_dynamics_of_s4_learn_at_their_own_rates_without_decay(self):
        found = tags(MIXERS["s4"](D, d_state=8, ssm_lr=4e-4, dt_lr=2e-4))
        slow = {"lr": 4e-4, "weight_decay": 0.0}
        assert found.pop("inv_dt") == {"lr": 2e-4, "weight_decay": 0.0}
        assert [found.pop(n) for n in ("A_real", "A_imag", "B")] == [slow] * 3
        assert set(found) == {"C", "D", "out_proj.weight", "out_proj.bias"}
        assert not any(found.values())

    def test_none_is_the_rate_of_the_run(self):
        found = tags(MIXERS["s4"](D, d_state=8, ssm_lr=None, dt_lr=None))
        assert found["A_real"] == found["inv_dt"] == {"weight_decay": 0.0}

    @pytest.mark.parametrize(
        ("opt_config", "B"),
        [
            ("standard", {"lr": 9e-4, "weight_decay": 0.0}),
            ("BandCdecay", {"lr": 9e-4}),
            ("BfastandCdecay", {}),
        ],
    )
    def test_the_groups_of_s5(self, opt_config, B):
        found = tags(MIXERS["s5"](D, d_state=8, ssm_lr=9e-4, opt_config=opt_config))
        assert found["B"] == B
        assert found["C"] == {}
        assert found["Lambda_re"] == found["Lambda_im"] == {"lr": 9e-4, "weight_decay": 0.0}

    @pytest.mark.parametrize("options", [{}, LSSL, LSSL | {"mode": "structured"}])
    def test_a_fixed_model_has_the_same_values_as_buffers(self, options, x):
        torch.manual_seed(0)
        learned = MIXERS["s4"](D, d_state=8, **options).double()
        fixed = MIXERS["s4"](D, d_state=8, train_ssm=False, **options).double()
        fixed.load_state_dict(learned.state_dict())
        assert {n for n, _ in fixed.named_parameters()} == {
            "ssm.C",
            "ssm.D",
            "out_proj.weight",
            "out_proj.bias",
        }
        assert torch.equal(fixed(x)[0], learned(x)[0])

    @pytest.mark.parametrize(("name", "options"), [("s4", {}), ("s4", LSSL), ("s5", {})])
    @pytest.mark.parametrize("value", [-200.0, 200.0])
    def test_step_sizes_out_of_range_are_held_there_with_finite_gradients(
        self, name, options, value, x
    ):
        mixer = MIXERS[name](D, d_state=8, **options).double()
        with torch.no_grad():
            mixer.ssm.inv_dt.fill_(value)
        y, _ = mixer(x)
        y.square().sum().backward()
        assert y.isfinite().all()
        assert all(p.grad.isfinite().all() for p in mixer.parameters())
        dt = mixer.ssm.dt()
        torch.testing.assert_close(dt, torch.full_like(dt, 1e-6 if value < 0 else 1e2))

    def test_no_eigenvalue_of_s4_lets_states_grow(self, x):
        mixer = MIXERS["s4"](D, d_state=8).double()
        with torch.no_grad():
            mixer.ssm.A_real.fill_(-1e3)
        _, state = mixer(x[:, :1], return_state=True)
        for _ in range(3):
            before = state["recurrent"].norm(dim=-1)
            _, state = mixer(0 * x[:, :1], state=state, return_state=True)
            assert (state["recurrent"].norm(dim=-1) < before).all()

    @pytest.mark.parametrize(
        ("options", "factor"),
        [({}, -1e-4), ({"force_neg": True}, -0.5), ({"clip_eigs": False}, 0.5)],
    )
    def test_real_parts_of_s5(self, options, factor, x):
        """A state with Lambda_re = 0.5 after one token, and after one more without input."""
        mixer = MIXERS["s5"](D, d_state=8, **options).double()
        with torch.no_grad():
            mixer.ssm.Lambda_re.fill_(0.5)
        _, first = mixer(x[:, :1], return_state=True)
        _, second = mixer(0 * x[:, :1], state=first, return_state=True)
        ratio = second["recurrent"].norm(dim=-1) / first["recurrent"].norm(dim=-1)
        torch.testing.assert_close(ratio, (factor * mixer.ssm.dt()).exp().expand_as(ratio))


KINDS = [("s4", {"d_state": 8}), ("s4", LSSL | {"d_state": 4}), ("s5", {"d_state": 8})]


@pytest.mark.parametrize(("name", "options"), KINDS)
class TestGeneration:
    """Steps keep what the parameters come to, without gradients."""

    def test_a_step_is_the_same_with_and_without_what_was_kept(self, name, options, x):
        mixer = MIXERS[name](D, **options).double()
        with torch.no_grad():
            _, state = mixer(x[:, :4], return_state=True)
            for t in range(4, 9):
                forgotten = {"recurrent": state["recurrent"].clone()}
                want, _ = mixer(x[:, t : t + 1], state=forgotten)
                y, state = mixer(x[:, t : t + 1], state=state, return_state=True)
                assert torch.equal(y, want)

    @pytest.mark.parametrize("how", ["in place", "data", "optimizer"])
    def test_a_changed_parameter_is_seen(self, name, options, how, x):
        mixer = MIXERS[name](D, **options).double()
        dt = mixer.ssm.inv_dt
        with torch.no_grad():
            _, state = mixer(x[:, :4], return_state=True)
            _, state = mixer(x[:, 4:5], state=state, return_state=True)
        if how == "in place":
            with torch.no_grad():
                dt.add_(0.5)
        elif how == "data":
            dt.data = dt.data + 0.5
        else:
            dt.grad = -torch.ones_like(dt)
            torch.optim.SGD([dt], lr=0.5).step()
        with torch.no_grad():
            y, _ = mixer(x[:, 5:6], state=state)
            want, _ = mixer(x[:, 5:6], state={"recurrent": state["recurrent"].clone()})
        assert torch.equal(y, want)

    def test_gradients_flow_after_steps_without(self, name, options, x):
        mixer = MIXERS[name](D, **options).double()
        with torch.no_grad():
            _, state = mixer(x[:, :4], return_state=True)
            _, state = mixer(x[:, 4:5], state=state, return_state=True)
        mixer(x[:, 5:6], state=state)[0].sum().backward()
        assert mixer.ssm.inv_dt.grad.abs().max() > 0

    def test_inference_mode_steps_too(self, name, options, x):
        mixer = MIXERS[name](D, **options).double()
        whole, _ = mixer(x)
        with torch.inference_mode():
            born = copy.deepcopy(mixer)
            for model in (mixer, born):
                _, state = model(x[:, :8], return_state=True)
                y, _ = model(x[:, 8:], state=state)
                torch.testing.assert_close(y, whole[:, 8:], **CLOSE)
        with torch.no_grad():
            _, state = born(x[:, :8], return_state=True)
            torch.testing.assert_close(born(x[:, 8:], state=state)[0], whole[:, 8:], **CLOSE)


@pytest.mark.parametrize(("name", "options"), [("s4", {"d_state": 8}), ("s5", {"d_state": 8})])
def test_own_parameters_of_any_dtype_give_the_same_output(name, options, x):
    torch.manual_seed(0)
    mixer = MIXERS[name](D, **options)
    own = [getattr(mixer.ssm, n) for n in mixer.ssm.keep_in_float32]
    with torch.no_grad():
        for parameter in own:
            parameter.copy_(parameter.bfloat16())
    want, _ = mixer(x.float())
    for parameter in own:
        parameter.data = parameter.data.bfloat16()
    assert torch.equal(mixer(x.float())[0], want)


@pytest.mark.parametrize(("name", "options"), KINDS)
def test_half_the_rate_is_half_the_step(name, options, x):
    torch.manual_seed(0)
    mixer = MIXERS[name](D, dt_min=0.01, dt_max=0.01, **options).double()
    torch.manual_seed(0)
    halved = MIXERS[name](D, dt_min=0.02, dt_max=0.02, rate=0.5, **options).double()
    torch.testing.assert_close(mixer(x)[0], halved(x)[0], rtol=1e-6, atol=1e-7)  # float32 dt


class TestStart:
    def test_modes_of_stored_perturbations(self):
        assert {n: len(ptd_init(n).modes().lam) for n in PERTURBED} == PERTURBED

    @pytest.mark.parametrize("tie_bc", [False, True])
    @pytest.mark.parametrize(("init", "method"), [("ptd", "optimise"), ("ptd_rank1", "rank1")])
    def test_s4_ptd_is_hippo_perturbed_and_read_by_real_numbers(self, init, method, tie_bc):
        """Kernels are sums of the 8 states of that system, with coefficients of size 1."""
        n, length, dt = 8, 40, 0.02
        torch.manual_seed(0)
        mixer = MIXERS["s4"](3, d_state=n, init=init, tie_bc=tie_bc, dt_min=dt, dt_max=dt)
        impulse = F.one_hot(torch.tensor(0), length).double()[None, :, None].expand(1, -1, 3)
        kernel, _ = mixer.double().ssm(impulse, None, None, None, False)
        kernel = kernel[0] - impulse[0] * mixer.ssm.D
        system = torch.from_numpy(hippo("legs", n)[0] + ptd_init(n, method).E)
        states = zoh_states(system, torch.from_numpy(hippo("legs", n)[1]), dt, length)
        c = torch.linalg.lstsq(states, kernel).solution
        torch.testing.assert_close(states @ c, kernel, rtol=1e-5, atol=1e-5)
        assert 0.3 < c.std() < 2

    @pytest.mark.parametrize("init", ["legs", "fout", "lin", "inv", "inv2", "quad", "real"])
    def test_s4d_starts_where_its_formula_says(self, init):
        torch.manual_seed(0)
        ssm = MIXERS["s4"](512, d_state=8, init=init).ssm
        assert ssm.A_real.shape == (1, 4)
        assert ssm.C.square().mean().item() == pytest.approx(0.5, rel=0.1)
        assert ssm.D.std().item() == pytest.approx(1, rel=0.1)
        assert 0.001 <= ssm.dt().min() < 0.0011
        assert 0.09 < ssm.dt().max() <= 0.1

    def test_two_inits_in_copies(self):
        ssm = MIXERS["s4"](8, d_state=4, init="diag", n_ssm=2).ssm
        inv, lin = (MIXERS["s4"](8, d_state=4, init=i).ssm.A_imag[0] for i in ("inv", "lin"))
        assert torch.equal(ssm.A_imag, torch.stack((inv, lin)))

    def test_factors_of_lssl_make_up_its_matrix(self, x):
        torch.manual_seed(0)
        dense = MIXERS["s4"](D, d_state=8, **LSSL).double()
        structured = MIXERS["s4"](D, d_state=8, **LSSL | {"mode": "structured"}).double()
        A = structured.ssm.matrix()
        torch.testing.assert_close(A, dense.ssm.matrix(), rtol=1e-6, atol=1e-6)

    def test_s5_keeps_one_of_each_pair_and_every_real_eigenvalue(self):
        ssm = MIXERS["s5"](D, d_state=64, blocks=2).ssm
        assert ssm.Lambda_re.shape == (36,)
        assert (ssm.Lambda_im == 0).sum() == 8
        ssm = MIXERS["s5"](D, d_state=16, blocks=8).ssm  # two states are real anyway
        assert ssm.Lambda_re.shape == (16,)

    @pytest.mark.parametrize("name", ["s4", "s5"])
    def test_without_memory_nothing_is_computed(self, name, monkeypatch):
        monkeypatch.setattr(type(MIXERS[name](D).ssm), "initial_values", None)
        with torch.device("meta"):
            assert all(p.is_meta for p in MIXERS[name](D).parameters())


def zoh_states(A: Tensor, b: Tensor, dt: float, length: int) -> Tensor:
    """[length, n] states after an impulse, the input held for one step."""
    step = torch.matrix_exp(A * dt)
    x = torch.linalg.solve(A, step - torch.eye(len(b), dtype=A.dtype)) @ b
    states = [x]
    for _ in range(length - 1):
        states.append(step @ states[-1])
    return torch.stack(states)
