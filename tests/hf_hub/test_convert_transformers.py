# SPDX-License-Identifier: Apache-2.0
"""transformers' Mamba and Mamba-2 become ours and theirs again: the same numbers, bit for bit."""

import inspect
import json
import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import (
    Mamba2Config,
    Mamba2ForCausalLM,
    MambaConfig,
    MambaForCausalLM,
    PreTrainedModel,
)
from transformers.models.mamba2.modeling_mamba2 import MambaRMSNormGated

from seqlib.models import SeqLMConfig, SeqLMForCausalLM
from seqlib.models.convert import ConversionError, convert_checkpoint
from seqlib.models.convert.checkpoint import FAMILIES as FAMILIES_OF_ALL
from seqlib.models.convert.mamba import FAMILIES

SMALL = {"vocab_size": 40, "hidden_size": 16, "num_hidden_layers": 3, "state_size": 4}
CASES = {
    "mamba": (MambaForCausalLM, MambaConfig(**SMALL)),
    "mamba-options": (
        MambaForCausalLM,
        MambaConfig(
            **SMALL, expand=3, conv_kernel=3, use_bias=True, use_conv_bias=False,
            time_step_rank=5, tie_word_embeddings=False, layer_norm_epsilon=1e-3,
        ),
    ),
    "mamba2": (
        Mamba2ForCausalLM, Mamba2Config(**SMALL, num_heads=4, head_dim=8, n_groups=1),
    ),
    "mamba2-options": (
        Mamba2ForCausalLM,
        Mamba2Config(
            **SMALL, num_heads=2, head_dim=16, n_groups=1, conv_kernel=2, use_bias=True,
            use_conv_bias=False, tie_word_embeddings=True, layer_norm_epsilon=1e-3,
        ),
    ),
}  # fmt: skip
# Releases that norm all channels together compute something else with more groups.
if "group_size" in inspect.signature(MambaRMSNormGated).parameters:
    CASES["mamba2-groups"] = (
        Mamba2ForCausalLM, Mamba2Config(**SMALL, num_heads=4, head_dim=8, n_groups=2),
    )  # fmt: skip


@pytest.fixture(params=CASES)
def theirs(request: pytest.FixtureRequest) -> PreTrainedModel:
    """A small model with parameters of size 1 in all of its parts."""
    torch.manual_seed(0)
    cls, config = CASES[request.param]
    model = cls(config).eval()
    with torch.no_grad():
        for name, p in model.named_parameters():
            if name.endswith(("norm.weight", "norm_f.weight", ".D")):
                p.uniform_(0.5, 1.5)
            elif name.endswith(("A_log", "dt_bias", "dt_proj.bias")):
                p.add_(torch.randn_like(p) / 2)
            elif name.endswith("bias"):
                p.normal_(std=0.3)
            else:
                p.normal_(std=p.shape[-1] ** -0.5)
    return model


@pytest.fixture
def folders(theirs, tmp_path) -> tuple[Path, Path]:
    theirs.save_pretrained(tmp_path / "theirs")
    written = convert_checkpoint(tmp_path / "theirs", tmp_path / "ours")
    assert written == "seqlib_lm"
    return tmp_path / "theirs", tmp_path / "ours"


@pytest.fixture
def ids() -> torch.Tensor:
    """[3, 21] tokens without padding, which would mean other things there: their steps go on."""
    return torch.randint(3, 40, (3, 21), generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def test_logits_are_equal_to_float32_precision(theirs, folders, ids):
    ours = SeqLMForCausalLM.from_pretrained(folders[1])
    want, got = theirs(ids).logits, ours(ids).logits
    assert want.std() > 0.3
    assert (got - want).abs().max() / want.std() < 1e-5  # measured: at most 2.3e-6


def test_generation_is_equal(theirs, folders, ids):
    ours = SeqLMForCausalLM.from_pretrained(folders[1])
    options = {"max_new_tokens": 12, "min_new_tokens": 12, "do_sample": False}
    for prompt in (ids, ids[:, :2]):  # also one shorter than the convolution
        want = theirs.generate(prompt, **options)
        assert torch.equal(ours.generate(prompt, **options), want)
    assert len(want[:, 2:].unique()) > 4


def test_the_way_back_gives_the_same_bits_and_the_same_model(theirs, folders, ids, tmp_path):
    written = convert_checkpoint(folders[1], tmp_path / "back")
    assert written == theirs.config.model_type
    before, after = (load_file(f / "model.safetensors") for f in (folders[0], tmp_path / "back"))
    assert before.keys() == after.keys()
    assert all(same_bits(before[name], after[name]) for name in before)
    back, report = type(theirs).from_pretrained(tmp_path / "back", output_loading_info=True)
    assert not any(report.values())
    assert torch.equal(back(ids).logits, theirs(ids).logits)
    assert not differences(theirs.config, back.config)
    convert_checkpoint(tmp_path / "back", tmp_path / "again")
    for name in ("config.json", "model.safetensors"):
        assert (tmp_path / "again" / name).read_bytes() == (folders[1] / name).read_bytes()


def test_16_bits_stay_as_they_are(theirs, tmp_path):
    for name, p in theirs.named_parameters():
        if not name.endswith(("A_log", "D", "dt_bias")):
            p.data = p.data.bfloat16()
    theirs.config.dtype = torch.bfloat16
    theirs.save_pretrained(tmp_path / "theirs")
    convert_checkpoint(tmp_path / "theirs", tmp_path / "ours")
    before, after = (load_file(tmp_path / f / "model.safetensors") for f in ("theirs", "ours"))
    assert {str(x.dtype) for x in after.values()} == {"torch.bfloat16", "torch.float32"}
    bits = [sorted((str(x.dtype), x.view(torch.uint8).flatten().tolist()) for x in tensors.values())
            for tensors in (before, after)]  # fmt: skip
    assert bits[0] == bits[1]
    assert SeqLMConfig.from_pretrained(tmp_path / "ours").dtype == torch.bfloat16


def test_our_eigenvalues_are_theirs(folders):
    config = SeqLMConfig.from_pretrained(folders[1])
    (options,) = config.mixer_kwargs.values()
    assert options["negative_eigenvalues"] is False
    assert config.intermediate_size == 0


@pytest.mark.parametrize(
    ("family", "cls"), [*zip(FAMILIES, (MambaConfig, Mamba2Config), strict=True)]
)
def test_defaults_and_fields_are_those_of_transformers(family, cls):
    defaults = cls()
    for name, value in family.fields.items():
        if name != "time_step_rank":  # "auto" is resolved
            assert getattr(defaults, name) == value, name
    written = json.loads(defaults.to_json_string())
    if "time_step_limit" in written:  # its infinity is read by the folder's reader
        written["time_step_limit"] = [0.0, math.inf]
    assert family.read(written)["hidden_size"] == defaults.hidden_size


def test_flash_linear_attentions_mamba_is_the_same_under_other_names(tmp_path):
    MambaForCausalLM(MambaConfig(**SMALL, layer_norm_epsilon=1e-3)).save_pretrained(tmp_path / "a")
    convert_checkpoint(tmp_path / "a", tmp_path / "before")
    path = tmp_path / "a" / "config.json"
    config = json.loads(path.read_text())
    config["norm_eps"] = config.pop("layer_norm_epsilon")
    config |= {"fuse_norm": True, "fuse_cross_entropy": True, "fuse_linear_cross_entropy": False}
    path.write_text(json.dumps({**config, "use_l2warp": False}))
    convert_checkpoint(tmp_path / "a", tmp_path / "after")
    for name in ("config.json", "model.safetensors"):
        before, after = ((tmp_path / f / name).read_bytes() for f in ("before", "after"))
        assert before == after


@pytest.mark.parametrize("family", FAMILIES_OF_ALL, ids=lambda family: family.model_type)
def test_values_of_another_kind_than_their_default_are_refused(family):
    wrong = {bool: ["false", 1, None], int: ["4", 1.5, True, None], float: ["1", True, None]}
    checked = 0
    for name, default in family.fields.items():
        if name.endswith("_token_id"):
            continue
        for value in wrong.get(type(default), []):
            with pytest.raises(ConversionError, match=f"{name} must be .*, got {value!r}"):
                family.read({name: value})
            checked += 1
    assert checked > 20


def same_bits(a: torch.Tensor, b: torch.Tensor) -> bool:
    return a.dtype == b.dtype and torch.equal(a.view(torch.uint8), b.view(torch.uint8))


def differences(a, b) -> set[str]:
    """Fields with different values, beside those that say how a model starts or is run."""
    a, b = a.to_dict(), b.to_dict()
    ways = {"_name_or_path", "transformers_version", "dtype", "architectures", "chunk_size"}
    return {name for name in a if name not in ways and a[name] != b[name]}
