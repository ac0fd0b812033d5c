# SPDX-License-Identifier: Apache-2.0
"""Learning rates and weight decays of their own: in the optimizer, schedules, logs and resumes."""

import copy
import shutil

import pytest
import torch
from torch import nn
from transformers import set_seed

from seqlib.layers.optim import set_optim
from seqlib.models import SeqLMConfig, SeqLMForCausalLM
from seqlib.training import clock as clock_module
from seqlib.training.model import ModelSettings, model_config
from seqlib.training.parameter_groups import split_groups, tag_of
from seqlib.training.settings import parse_settings

RATES = {"ssm_lr": 4e-4, "dt_lr": 2e-4}
WORDS = ("--learning_rate=1e-2", "--warmup_steps=4", "--weight_decay=0.05")


@pytest.fixture
def network(tiny):
    """S4 and S5 with dropout, and a B that has weight decay at the rate of the dynamics."""
    set_seed(0)
    s4 = {"d_state": 4, "init": "ptd_rank1", "dropout": 0.2, **RATES}
    s5 = {"d_state": 4, "init": "ptd_rank1", "dropout": 0.2, "opt_config": "BandCdecay", **RATES}
    return SeqLMForCausalLM(
        SeqLMConfig(
            vocab_size=tiny.VOCAB,
            hidden_size=16,
            intermediate_size=0,
            block_types=["s4", "s5"],
            mixer_kwargs={"s4": s4, "s5": s5},
            norm_type="batch",
        )
    )


def options(trainer, *names):
    """For each parameter by name: the peak of its rate, and other options of its group."""
    ids = {id(p): n for n, p in trainer.model.named_parameters()}
    return {
        ids[id(p)]: tuple(group[name] for name in names)
        for group in trainer.optimizer.param_groups
        for p in group["params"]
    }


def test_every_parameter_has_the_options_of_its_tag(tiny, network, tmp_path):
    trainer = tiny.train(tmp_path, *WORDS, "--max_steps=1", network=network)
    found = options(trainer, "initial_lr", "weight_decay")
    assert found.keys() == dict(network.named_parameters()).keys()
    for name, option in found.items():
        last = name.rpartition(".")[2]
        if last == "inv_dt":
            want = (2e-4, 0.0)
        elif "1.mixer.ssm.B" in name:
            want = (4e-4, 0.05)
        elif last in ("A_real", "A_imag", "Lambda_re", "Lambda_im", "B"):
            want = (4e-4, 0.0)
        else:
            want = (1e-2, 0.0 if "norm" in name or last == "bias" else 0.05)
        assert option == want, name
    assert trainer.optimizer.param_groups[0]["initial_lr"] == 1e-2  # what the log shows first


def test_models_without_rates_have_the_two_groups_of_transformers(tiny, tmp_path):
    trainer = tiny.train(tmp_path, "--max_steps=1", network=tiny.model())
    first, second = trainer.optimizer.param_groups
    assert first["weight_decay"] == 0.1
    assert second["weight_decay"] == 0
    assert "own_lr" not in first | second


def test_without_weight_decay_the_groups_are_the_same(tiny, network, tmp_path):
    words = ("--max_steps=1", "--learning_rate=4e-4", "--weight_decay=0")
    trainer = tiny.train(tmp_path, *words, network=network)
    sizes = [len(group["params"]) for group in trainer.optimizer.param_groups]
    other = tiny.train(tmp_path / "other", "--max_steps=1", network=copy.deepcopy(network))
    assert [len(group["params"]) for group in other.optimizer.param_groups] == sizes
    assert len(sizes) == 5


@pytest.mark.parametrize("shape", ["cosine", "linear", "constant_with_warmup", "inverse_sqrt"])
def test_schedules_scale_all_rates_and_the_log_names_them(tiny, network, tmp_path, shape):
    words = (*WORDS, f"--lr_scheduler_type={shape}")
    trainer = tiny.train(tmp_path, *words, network=network)
    rows = [row for row in trainer.state.log_history if "learning_rate" in row]
    assert len(rows) == 12
    for row in rows:
        factor = row["learning_rate"] / 1e-2
        assert row["learning_rate/0.0004"] == pytest.approx(4e-4 * factor, rel=1e-12)
        assert row["learning_rate/0.0002"] == pytest.approx(2e-4 * factor, rel=1e-12)
    assert len({row["learning_rate"] for row in rows}) > 4


def test_a_schedule_by_the_clock_scales_all_rates(tiny, network, tmp_path, monkeypatch):
    class FakeTime:
        now = 0.0

        def monotonic(self):
            self.now += 6.0
            return self.now

    monkeypatch.setattr(clock_module, "time", FakeTime())
    words = ("--max_steps=-1", "--train_minutes=1", "--warmup_steps=0.2", "--learning_rate=1e-2")
    trainer = tiny.train(tmp_path, *words, network=network)
    rows = [row for row in trainer.state.log_history if "learning_rate" in row]
    assert len({row["learning_rate"] for row in rows}) > 5
    for row in rows:
        want = row["learning_rate"] / 1e-2 * 4e-4
        assert row["learning_rate/0.0004"] == pytest.approx(want, rel=1e-12)


@pytest.mark.parametrize(
    "optim", ["adamw_torch", "adamw_torch_fused", "sgd", "adafactor", "rmsprop"]
)
def test_steps_are_as_large_as_the_rates(tiny, network, tmp_path, optim):
    before = {n: p.detach().clone() for n, p in network.named_parameters()}
    words = ("--learning_rate=0", "--weight_decay=0", "--max_steps=2", "--warmup_steps=0")
    trainer = tiny.train(tmp_path, *words, f"--optim={optim}", network=network)
    for name, p in trainer.model.named_parameters():
        moved = not torch.equal(p, before[name])
        assert moved == ("lr" in tag_of(p)), name


def test_optimizers_of_one_rate_are_refused(tiny, network, tmp_path):
    with pytest.raises(ValueError, match=r"one learning rate for all.*\[0.0002, 0.0004\]"):
        tiny.train(tmp_path, "--optim=adalomo", network=network)


def test_tags_set_by_hand_and_lost_in_a_copy(tiny, network, tmp_path):
    copied = copy.deepcopy(network)  # torch copies values alone
    by_hand = copied.model.layers[0].mixer.ssm.inv_dt
    set_optim(by_hand, lr=5e-5)
    trainer = tiny.train(tmp_path, *WORDS, "--max_steps=1", network=copied)
    found = options(trainer, "initial_lr")
    assert found["model.layers.0.mixer.ssm.inv_dt"] == (5e-5,)
    assert found["model.layers.1.mixer.ssm.inv_dt"] == (2e-4,)


def test_a_frozen_parameter_is_in_no_group(tiny, network, tmp_path):
    network.model.layers[0].mixer.ssm.inv_dt.requires_grad_(False)
    trainer = tiny.train(tmp_path, *WORDS, "--max_steps=1", network=network)
    missing = dict(network.named_parameters()).keys() - options(trainer, "lr").keys()
    assert missing == {"model.layers.0.mixer.ssm.inv_dt"}


def test_splitting_keeps_all_other_options():
    plain, slow, decayed = (nn.Parameter(torch.ones(1)) for _ in range(3))
    set_optim(slow, lr=1e-4)
    set_optim(decayed, weight_decay=0.3)
    groups = [
        {"params": [plain, slow, decayed], "betas": (0.5, 0.6)},
        {"params": [], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=1e-2, weight_decay=0.1)
    split_groups(optimizer)
    found = {
        id(p): (g["lr"], g["weight_decay"], g["betas"])
        for g in optimizer.param_groups
        for p in g["params"]
    }
    assert found == {
        id(plain): (1e-2, 0.1, (0.5, 0.6)),
        id(slow): (1e-4, 0.1, (0.5, 0.6)),
        id(decayed): (1e-2, 0.3, (0.5, 0.6)),
    }


class TestResume:
    @pytest.fixture
    def whole(self, tiny, network, tmp_path):
        return tiny.train(tmp_path / "whole", *WORDS, network=copy.deepcopy(network))

    @pytest.fixture
    def cut(self, whole, tmp_path):
        """The folder of the same run, stopped after six steps."""
        folder = shutil.copytree(whole.args.output_dir, tmp_path / "cut")
        for step in (9, 12):
            shutil.rmtree(folder / f"checkpoint-{step}")
        return folder

    def test_bit_for_bit(self, tiny, network, whole, cut):
        again = tiny.train(cut, *WORDS, network=network)
        assert tiny.losses(again) == tiny.losses(whole)
        for (name, got), want in zip(
            again.model.state_dict().items(), whole.model.state_dict().values(), strict=True
        ):
            assert torch.equal(got, want), name
        for got, want in zip(
            again.optimizer.state.values(), whole.optimizer.state.values(), strict=True
        ):
            assert all(torch.equal(got[k], want[k]) for k in want)
        names = ("lr", "initial_lr", "weight_decay")
        assert options(again, *names) == options(whole, *names)

    def test_with_other_settings_of_the_run(self, tiny, network, cut, tmp_path):
        """Its own rates stay; that they meet the run's does not join their groups."""
        words = ("--learning_rate=4e-4", "--warmup_steps=4", "--weight_decay=0.2")
        checkpoint = f"--resume_from_checkpoint={cut / 'checkpoint-6'}"
        again = tiny.train(tmp_path / "other", *words, checkpoint, network=network)
        found = options(again, "initial_lr", "weight_decay")
        assert found["model.embed_tokens.weight"] == (4e-4, 0.2)
        assert found["model.layers.0.mixer.ssm.inv_dt"] == (2e-4, 0.0)
        assert found["model.layers.1.mixer.ssm.B"] == (4e-4, 0.2)
        rows = [r for r in again.state.log_history if r.get("step", 0) > 6 and "learning_rate" in r]
        for row in rows:
            assert row["learning_rate/0.0004"] == pytest.approx(row["learning_rate"], rel=1e-12)

    def test_from_a_rate_of_zero(self, tiny, network, tmp_path):
        zero = tiny.train(
            tmp_path / "zero", "--learning_rate=0", "--max_steps=3", network=copy.deepcopy(network)
        )
        checkpoint = f"--resume_from_checkpoint={zero.args.output_dir}/checkpoint-3"
        again = tiny.train(tmp_path / "some", *WORDS, checkpoint, network=network)
        assert options(again, "initial_lr")["model.embed_tokens.weight"] == (1e-2,)

    def test_other_rates_of_the_model_are_another_model(self, tiny, network, cut):
        network.config.mixer_kwargs["s5"]["ssm_lr"] = 1e-3
        checkpoint = f"--resume_from_checkpoint={cut / 'checkpoint-6'}"
        with pytest.raises(Exception, match="mixer_kwargs is"):
            tiny.train(cut, *WORDS, checkpoint, network=network)


def test_rates_come_from_a_recipes_settings(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text(
        "hidden_size: 16\nblock_types: [s5]\nnorm_type: batch\nnorm_position: post\n"
        "mixer_kwargs:\n  s5: {d_state: 4, init: legs, ssm_lr: 9e-4}\n"
    )
    (settings,) = parse_settings([ModelSettings], [str(path)])
    config = model_config(settings, vocab_size=9)
    assert (config.norm_type, config.norm_position) == ("batch", "post")
    ssm = SeqLMForCausalLM(config).model.layers[0].mixer.ssm
    assert tag_of(ssm.B)["lr"] == 9e-4
    assert tag_of(ssm.inv_dt)["lr"] == 1e-3
    words = [str(path), "--mixer_kwargs.s5.ssm_lr", "5e-4"]
    (settings,) = parse_settings([ModelSettings], words)
    model = SeqLMForCausalLM(model_config(settings, vocab_size=9))
    assert tag_of(model.model.layers[0].mixer.ssm.B)["lr"] == 5e-4
