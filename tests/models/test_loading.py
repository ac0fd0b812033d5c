# SPDX-License-Identifier: Apache-2.0
"""Saving and loading: nothing changes, nothing is left uninitialised, damage has a name."""

import copy
import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoModelForCausalLM, LlamaConfig, PreTrainedConfig

from seqlib.layers.optim import tag_parameters
from seqlib.models import SeqLMConfig, SeqLMForCausalLM, SeqLMModel

WEIGHTS = "model.safetensors"
KEPT_WIDE = (".A_log", ".mixer.D", ".dt_bias")
# the filters of FSMN, and what is one number per channel there
CONSTANT = (".gain", ".shift", ".slope")
UNDECAYED = (*KEPT_WIDE, ".taps", *CONSTANT)
# of state-space models, with learning rates of their own
DYNAMICS = (".ssm.inv_dt", ".ssm.B", "_real", "_imag", "_re", "_im")
SAME = (".A_real", ".A_imag", ".Lambda_re", ".Lambda_im", *CONSTANT)
WIDE = (*KEPT_WIDE, *DYNAMICS, ".ssm.C", ".ssm.D")


@pytest.mark.parametrize("tied", [False, True])
def test_loading_what_was_saved_changes_nothing(make_model, kind, ids, tmp_path, tied):
    model = make_model(kind, tie_word_embeddings=tied)
    model.save_pretrained(tmp_path)
    again, report = AutoModelForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
    assert type(again) is SeqLMForCausalLM
    assert not any(report.values())
    assert torch.equal(again(ids).logits, model(ids).logits)
    saved = load_file(tmp_path / WEIGHTS)
    assert ("lm_head.weight" in saved) is not tied
    assert (again.lm_head.weight is again.model.embed_tokens.weight) is tied
    backbone = AutoModel.from_pretrained(tmp_path)
    assert type(backbone) is SeqLMModel
    assert torch.equal(backbone(ids).last_hidden_state, model.model(ids).last_hidden_state)


def test_sharded_checkpoints_load(make_model, ids, tmp_path):
    model = make_model("attention first")
    model.save_pretrained(tmp_path, max_shard_size="20KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 2
    again = SeqLMForCausalLM.from_pretrained(tmp_path)
    assert torch.equal(again(ids).logits, model(ids).logits)


def test_every_parameter_missing_from_a_checkpoint_is_initialised(make_model, kind, tmp_path):
    """Loading starts from uninitialised memory, so each has to be rebuilt by name."""
    model = make_model(kind)
    model.save_pretrained(tmp_path)
    path = tmp_path / WEIGHTS
    kept = {"model.embed_tokens.weight": load_file(path)["model.embed_tokens.weight"]}
    save_file(kept, path, metadata={"format": "pt"})
    torch.manual_seed(1)
    again, report = SeqLMForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
    fresh = make_model(kind)
    assert set(report["missing_keys"]) == dict(fresh.named_parameters()).keys() - kept.keys()
    assert not list(again.named_buffers())
    for (name, got), want in zip(again.named_parameters(), fresh.parameters(), strict=True):
        assert got.isfinite().all(), name
        if name in kept:
            assert torch.equal(got, kept[name])
        elif name.endswith(".inv_dt"):  # of step sizes from 0.001 to 0.1
            assert ((got >= -6.909) & (got <= -2.25)).all(), name
        elif name.endswith(SAME) or (".block." in name and name.endswith(".bias")):
            assert torch.equal(got, want), name
        elif ".ssm." in name or name.endswith(".taps"):
            assert 0.5 < got.std() / want.std() < 2, name
        elif name.endswith("_proj.bias"):
            assert torch.equal(got, torch.zeros_like(got)), name
        elif "norm" in name or name.endswith(".D"):
            assert torch.equal(got, torch.ones_like(got)), name
        elif name.endswith("conv1d.bias"):
            assert torch.equal(got, torch.zeros_like(got)), name
        elif "conv1d" in name:
            assert got.abs().max() <= 0.5
            assert got.abs().mean().item() == pytest.approx(0.25, rel=0.2), name
        elif name.endswith(("A_log", "dt_bias")):
            low, high = (1e-4, 16.001) if name.endswith("A_log") else (0.00099, 0.1001)
            value = got.exp() if name.endswith("A_log") else torch.nn.functional.softplus(got)
            assert ((value >= low) & (value <= high)).all(), name
        elif "dt_proj" in name:  # uniform, from two inputs
            assert got.std().item() == pytest.approx(6**-0.5, rel=0.2), name
        else:
            assert got.std().item() == pytest.approx(0.15, rel=0.2), name
        assert got.shape == want.shape


def test_tags_for_the_optimizer_survive_loading(make_model, kind, tmp_path):
    def tags(model):
        return {n: getattr(p, "_optim", {}) for n, p in model.named_parameters()}

    model = make_model(kind)
    model.save_pretrained(tmp_path)
    want = tags(model)
    undecayed = {n for n, tag in want.items() if tag.get("weight_decay") == 0}
    assert undecayed == {n for n in want if "norm" in n or n.endswith((*UNDECAYED, *DYNAMICS))}
    assert {n for n, tag in want.items() if "lr" in tag} == {
        n for n in want if n.endswith(DYNAMICS)
    }
    assert tags(SeqLMForCausalLM.from_pretrained(tmp_path)) == want
    with torch.device("meta"):
        assert tags(SeqLMForCausalLM(model.config)) == want
    bare = copy.deepcopy(model)
    assert not any(tags(bare).values())  # torch copies values alone
    tag_parameters(bare)
    assert tags(bare) == want


def test_loading_in_bfloat16_keeps_decays_wide_and_outputs_close(make_model, kind, ids, tmp_path):
    model = make_model(kind)
    model.save_pretrained(tmp_path)
    half = SeqLMForCausalLM.from_pretrained(tmp_path, dtype=torch.bfloat16)
    for name, p in half.named_parameters():
        wide = name.endswith(WIDE)
        assert p.dtype == (torch.float32 if wide else torch.bfloat16), name
    want, got = model(ids).logits, half(ids).logits.float()
    assert got.isfinite().all()
    assert (got - want).norm() / want.norm() < 0.1  # measured: at most 0.032
    whole = model.to(torch.bfloat16)  # decays too
    assert (whole(ids).logits.float() - want).norm() / want.norm() < 0.1
    tokens = whole.generate(ids, max_new_tokens=3, do_sample=False)
    assert tokens.shape == (3, 12)


def test_resizing_keeps_the_old_logits(make_model, ids):
    for tied in (False, True):
        model = make_model("gated_delta_net", tie_word_embeddings=tied)
        want = model(ids % 20).logits
        model.resize_token_embeddings(50)
        assert model.config.vocab_size == 50
        torch.testing.assert_close(model(ids % 20).logits[..., :37], want)
        model.resize_token_embeddings(20)
        torch.testing.assert_close(model(ids % 20).logits, want[..., :20])


class TestDamage:
    @pytest.fixture
    def folder(self, make_model, tmp_path):
        make_model("delta_net").save_pretrained(tmp_path)
        return tmp_path

    def test_a_checkpoint_of_another_architecture(self, folder):
        LlamaConfig(hidden_size=32).save_pretrained(folder)
        with pytest.raises(ValueError, match="a 'llama' model, not of 'seqlib_lm'"):
            SeqLMForCausalLM.from_pretrained(folder)

    def test_weights_of_another_size(self, folder):
        path = folder / "config.json"
        fields = json.loads(path.read_text()) | {"hidden_size": 64}
        path.write_text(json.dumps(fields))
        with pytest.raises(RuntimeError, match="ignore_mismatched_sizes"):
            SeqLMForCausalLM.from_pretrained(folder)

    def test_a_missing_weights_file(self, folder):
        (folder / WEIGHTS).unlink()
        with pytest.raises(OSError, match=r"no file named model\.safetensors"):
            SeqLMForCausalLM.from_pretrained(folder)

    def test_a_missing_configuration(self, folder):
        (folder / "config.json").unlink()
        with pytest.raises(OSError, match=r"holds no config\.json"):
            SeqLMForCausalLM.from_pretrained(folder)

    @pytest.mark.parametrize("size", [0, 4, 100, 5000])
    def test_a_truncated_weights_file(self, folder, size):
        path = folder / WEIGHTS
        path.write_bytes(path.read_bytes()[:size])
        with pytest.raises(OSError, match=r"weights file of .* is damaged or incomplete"):
            SeqLMForCausalLM.from_pretrained(folder)

    def test_garbage_in_a_weights_file(self, folder):
        (folder / WEIGHTS).write_bytes(b"\xff" * 5000)
        with pytest.raises(OSError, match="is damaged or incomplete"):
            AutoModelForCausalLM.from_pretrained(folder)


def test_the_auto_classes_do_not_take_other_configurations():
    with pytest.raises(ValueError, match="Unrecognized configuration class"):
        AutoModelForCausalLM.from_config(PreTrainedConfig())
    assert (
        type(
            AutoModelForCausalLM.from_config(
                SeqLMConfig(vocab_size=9, hidden_size=16, num_hidden_layers=1)
            )
        )
        is SeqLMForCausalLM
    )
