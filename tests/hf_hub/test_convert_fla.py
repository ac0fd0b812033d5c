# SPDX-License-Identifier: Apache-2.0
"""Checkpoints laid out as flash-linear-attention's: proved by its own layers' published numbers."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from seqlib_kernels import use_backend

from seqlib.models import SeqLMConfig, SeqLMForCausalLM
from seqlib.models.convert import ConversionError, convert_checkpoint

GOLDEN = Path(__file__).parents[1] / "golden" / "lrnn"
KINDS = {
    "delta_net": ("layer_deltanet_neg", "DeltaNetForCausalLM"),
    "gated_deltanet": ("layer_gated_deltanet_neg", "GatedDeltaNetForCausalLM"),
    "gated_deltaproduct": ("layer_gated_deltaproduct_n2", "GatedDeltaProductForCausalLM"),
}
WIDTH, VOCABULARY = 20, 11


class Checkpoint:
    """One layer of theirs with the published weights, inside a model of random ones."""

    def __init__(self, model_type: str):
        file, architecture = KINDS[model_type]
        with np.load(GOLDEN / f"{file}.npz") as arrays:
            self.arrays = {name: torch.from_numpy(x) for name, x in arrays.items()}
        options = {k[4:]: v.item() for k, v in self.arrays.items() if k.startswith("cfg_")}
        self.config = {
            "model_type": model_type,
            "architectures": [architecture],
            "num_hidden_layers": 1,
            "vocab_size": VOCABULARY,
            "intermediate_size": WIDTH,
            "hidden_act": "swish",
            "torch_dtype": "float64",
            "attn": None,
            "attn_mode": "chunk",
            "fuse_norm": True,
            "bos_token_id": 1,
            "eos_token_id": 2,
            **options,
        }
        D = options["hidden_size"]
        generator = torch.Generator().manual_seed(0)
        shapes = {
            "model.embeddings.weight": (VOCABULARY, D),
            "model.layers.0.attn_norm.weight": (D,),
            "model.layers.0.mlp_norm.weight": (D,),
            "model.layers.0.mlp.gate_proj.weight": (WIDTH, D),
            "model.layers.0.mlp.up_proj.weight": (WIDTH, D),
            "model.layers.0.mlp.down_proj.weight": (D, WIDTH),
            "model.norm.weight": (D,),
            "lm_head.weight": (VOCABULARY, D),
        }
        self.tensors = {
            name: torch.randn(shape, generator=generator, dtype=torch.float64)
            for name, shape in shapes.items()
        }
        layer = {k[2:]: v.contiguous() for k, v in self.arrays.items() if k.startswith("w_")}
        self.tensors |= {f"model.layers.0.attn.{name}": x for name, x in layer.items()}

    def save(self, folder: Path) -> Path:
        folder.mkdir()
        (folder / "config.json").write_text(json.dumps(self.config))
        save_file(self.tensors, folder / "model.safetensors", metadata={"format": "pt"})
        return folder


@pytest.fixture(params=KINDS)
def theirs(request: pytest.FixtureRequest) -> Checkpoint:
    return Checkpoint(request.param)


@torch.no_grad()
def test_the_model_holds_their_layer_and_their_weights(theirs, tmp_path):
    convert_checkpoint(theirs.save(tmp_path / "theirs"), tmp_path / "ours")
    model, report = SeqLMForCausalLM.from_pretrained(
        tmp_path / "ours", dtype=torch.float64, output_loading_info=True
    )
    assert not any(report.values())
    block, want = model.model.layers[0], theirs.arrays["out_y"]
    with use_backend("reference"):
        got, _ = block.mixer(theirs.arrays["in_x"])
    assert (got - want).norm() / want.norm() < 1e-10  # measured 1e-15
    for ours, name in {
        model.model.embed_tokens: "model.embeddings",
        model.model.norm: "model.norm",
        model.lm_head: "lm_head",
        block.mixer_norm: "model.layers.0.attn_norm",
        block.mlp_norm: "model.layers.0.mlp_norm",
        block.mlp.gate_proj: "model.layers.0.mlp.gate_proj",
        block.mlp.up_proj: "model.layers.0.mlp.up_proj",
        block.mlp.down_proj: "model.layers.0.mlp.down_proj",
    }.items():
        assert torch.equal(ours.weight, theirs.tensors[f"{name}.weight"]), name
    assert block.mixer_norm.eps == block.mixer.o_norm.eps == theirs.config["norm_eps"]


def test_the_way_back_gives_the_same_bits_and_fields(theirs, tmp_path):
    convert_checkpoint(theirs.save(tmp_path / "theirs"), tmp_path / "ours")
    written = convert_checkpoint(tmp_path / "ours", tmp_path / "back")
    assert written == theirs.config["model_type"]
    back = load_file(tmp_path / "back" / "model.safetensors")
    assert back.keys() == theirs.tensors.keys()
    for name, x in theirs.tensors.items():
        assert torch.equal(back[name].view(torch.uint8), x.view(torch.uint8)), name
    config = json.loads((tmp_path / "back" / "config.json").read_text())
    same = theirs.config.keys() - {"torch_dtype", "attn", "attn_mode", "fuse_norm"}
    assert {name: config[name] for name in same} == {name: theirs.config[name] for name in same}
    assert config["dtype"] == "float64"
    convert_checkpoint(tmp_path / "back", tmp_path / "again")
    for name in ("config.json", "model.safetensors"):
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / "ours" / name).read_bytes()


def test_their_defaults_fill_what_is_not_said(theirs, tmp_path):
    """Above all: beta ends at 1, and products have one factor and no decay."""
    for name in ("allow_neg_eigval", "norm_eps", "conv_size", "use_short_conv", "bos_token_id"):
        del theirs.config[name]
    if theirs.config["model_type"] == "gated_deltaproduct":
        del theirs.config["num_householder"], theirs.config["use_forget_gate"]
        kept = {}
        for name, x in theirs.tensors.items():
            if (
                name.endswith(("k_proj.weight", "v_proj.weight", "b_proj.weight"))
                or "_conv1d" in name
            ):
                x = x if ".q_" in name else x.chunk(2)[0].contiguous()
            if not name.endswith(("a_proj.weight", "A_log", "dt_bias")):
                kept[name] = x
        theirs.tensors = kept
    convert_checkpoint(theirs.save(tmp_path / "theirs"), tmp_path / "ours")
    config = SeqLMConfig.from_pretrained(tmp_path / "ours")
    (options,) = config.mixer_kwargs.values()
    assert options["negative_eigenvalues"] is False
    assert options["norm_eps"] == config.rms_norm_eps == 1e-6
    assert config.bos_token_id == 1
    if theirs.config["model_type"] == "gated_deltaproduct":
        assert options["num_householder"] == 1
        assert options["use_forget_gate"] is False


def test_names_and_switches_of_old_files_are_understood(tmp_path):
    theirs = Checkpoint("delta_net")
    theirs.config["rms_norm_eps"] = theirs.config.pop("norm_eps")
    theirs.config |= {"share_conv_kernel": False, "use_rope": False, "norm_first": False}
    theirs.config |= {"chunk_size": 64, "use_beta": True, "use_output_norm": True}
    convert_checkpoint(theirs.save(tmp_path / "theirs"), tmp_path / "ours")
    config = SeqLMConfig.from_pretrained(tmp_path / "ours")
    assert config.rms_norm_eps == theirs.config["rms_norm_eps"]
    assert config.dtype == torch.float64


@pytest.mark.parametrize(("ratio", "width"), [(None, 256), (4, 256), (16, 512)])
def test_the_width_of_the_mlp_follows_from_their_ratio(ratio, width, tmp_path):
    theirs = Checkpoint("delta_net")
    del theirs.config["intermediate_size"]
    theirs.config["hidden_ratio"] = ratio
    for name in ("gate_proj", "up_proj", "down_proj"):
        shape = (32, width) if name == "down_proj" else (width, 32)
        theirs.tensors[f"model.layers.0.mlp.{name}.weight"] = torch.zeros(shape)
    convert_checkpoint(theirs.save(tmp_path / "theirs"), tmp_path / "ours")
    assert SeqLMConfig.from_pretrained(tmp_path / "ours").intermediate_size == width


def test_gate_and_up_in_one_are_parted(tmp_path):
    theirs = Checkpoint("delta_net")
    mlp = "model.layers.0.mlp."
    gate, up = theirs.tensors[mlp + "gate_proj.weight"], theirs.tensors.pop(mlp + "up_proj.weight")
    theirs.tensors[mlp + "gate_proj.weight"] = torch.cat((gate, up))
    convert_checkpoint(theirs.save(tmp_path / "theirs"), tmp_path / "ours")
    ours = load_file(tmp_path / "ours" / "model.safetensors")
    assert torch.equal(ours[mlp + "gate_proj.weight"], gate)
    assert torch.equal(ours[mlp + "up_proj.weight"], up)


BAD = {
    "qk_activation": ("relu", "qk_activation must be 'silu' .* got 'relu'"),
    "qk_norm": ("sum", "qk_norm must be 'l2' .* got 'sum'"),
    "use_beta": (False, "use_beta must be True .* got False"),
    "use_output_norm": (False, "use_output_norm must be True .* got False"),
    "conv_bias": (True, "conv_bias must be False or None .* got True"),
    "attn": ({"layers": [1], "num_heads": 2}, r"attn must be None .* got \{'layers': \[1\]"),
    "hidden_act": ("relu", "hidden_act must be 'swish' or 'silu' .* got 'relu'"),
    "norm_first": (True, "norm_first must be False .* got True"),
    "share_conv_kernel": (True, "share_conv_kernel must be False .* got True"),
    "elementwise_affine": (False, "elementwise_affine must be True .* got False"),
    "use_rope": (True, "use_rope must be False .* got True"),
    "feature_map": ("relu", "feature_map = 'relu' is no known field of a 'delta_net' checkpoint"),
    "rms_norm_eps": (0.5, "rms_norm_eps must be 1e-05 as norm_eps, got 0.5"),
    "quantization_config": ({"bits": 4}, "quantization_config = .* is no known field"),
    "architectures": (["DeltaNetModel"], r"architectures must be \['DeltaNetForCausalLM'\]"),
    "num_heads": (5, "the key size of a head must be a whole number"),
    "hidden_size": ("32", "hidden_size must be a whole number, got '32'"),
    "conv_size": (True, "conv_size must be a whole number, got True"),
    "expand_k": (None, "expand_k must be a number, got None"),
    "allow_neg_eigval": ("false", "allow_neg_eigval must be true or false, got 'false'"),
    "hidden_ratio": ("x", "the configuration of 'delta_net'"),
    "pad_token_id": (11, "pad_token_id must be None or below vocab_size=11"),
    "model_type": ("delta_nett", "no conversion of model_type 'delta_nett'; did you mean 'delta_n"),
}


@pytest.mark.parametrize("field", BAD)
def test_what_is_not_computed_here_is_refused(field, tmp_path):
    theirs = Checkpoint("delta_net")
    theirs.config[field], message = BAD[field]
    if field == "hidden_ratio":
        del theirs.config["intermediate_size"]  # which it is for
    with pytest.raises(ConversionError, match=message):
        convert_checkpoint(theirs.save(tmp_path / "theirs"), tmp_path / "ours")
    assert [path.name for path in tmp_path.iterdir()] == ["theirs"]


OURS = {
    "vocab_size": 11,
    "hidden_size": 16,
    "intermediate_size": 12,
    "block_types": ["delta_net"] * 2,
    "mixer_kwargs": {"delta_net": {"num_heads": 2}},
}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"block_types": ["delta_net", "full_attention"]},
            "block_types must be the same everywhere and one of delta_net, delta_product",
        ),
        ({"block_types": ["full_attention"]}, r"one of .* got \['full_attention'\]"),
        ({"intermediate_size": 0}, "intermediate_size must be above zero: their blocks have"),
        ({"rms_norm_eps": 1e-5}, "norm_eps must be equal to rms_norm_eps=1e-05"),
        (
            {
                "block_types": ["delta_product"],
                "mixer_kwargs": {"delta_product": {"num_heads": 1, "num_v_heads": 2}},
            },
            "num_v_heads must be equal to num_heads=1: their models have no field for it, got 2",
        ),
        (
            {"block_types": ["mamba"], "mixer_kwargs": {"mamba": {"negative_eigenvalues": False}}},
            "intermediate_size must be 0: their blocks have no MLP, got 12",
        ),
        (
            {"block_types": ["mamba"], "intermediate_size": 0},
            "negative_eigenvalues must be False: their decays are exp",
        ),
        (
            {
                "block_types": ["mamba"],
                "intermediate_size": 0,
                "mixer_kwargs": {"mamba": {"negative_eigenvalues": False, "expand": 1.5}},
            },
            "expand must be a whole number, got 1.5",
        ),
        (
            {
                "block_types": ["mamba2"],
                "intermediate_size": 0,
                "mixer_kwargs": {
                    "mamba2": {"negative_eigenvalues": False, "head_dim": 8, "norm_eps": 1e-3}
                },
            },
            "norm_eps must be equal to rms_norm_eps=1e-06: they have one",
        ),
        ({"architectures": ["SeqLMModel"]}, r"architectures must be \['SeqLMForCausalLM'\]"),
        ({"rope": 1}, "no configuration field 'rope'"),
        ({"id2label": []}, "the configuration: "),
        ({"dtype": "float8"}, "dtype must be null or one of float64, .* got 'float8'"),
    ],
)
def test_what_they_do_not_compute_is_refused(changes, message, tmp_path):
    fields = {**OURS, "model_type": "seqlib_lm", **changes}
    source = tmp_path / "ours"
    source.mkdir()
    (source / "config.json").write_text(json.dumps(fields))
    with pytest.raises(ConversionError, match=message):
        convert_checkpoint(source, tmp_path / "theirs")
    assert not (tmp_path / "theirs").exists()
