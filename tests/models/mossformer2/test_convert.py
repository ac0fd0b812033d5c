# SPDX-License-Identifier: Apache-2.0
"""Published checkpoints made ours and back, on networks with known outputs."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from hf_hub import convert as command
from seqlib.models.convert import ConversionError, convert_mossformer2, export_mossformer2
from seqlib.models.convert import mossformer2_names as names
from seqlib.models.convert.mossformer2_files import CLEARVOICE, PARTS, read_tensors
from seqlib.models.mossformer2 import (
    MossFormer2Config,
    MossFormer2FeatureExtractor,
    MossFormer2ForSpeechEnhancement,
    MossFormer2ForSpeechSeparation,
)

GOLDEN = Path(__file__).parents[2] / "golden" / "mossformer2"
GROUPS = {
    "net_2spk": 32,
    "net_3spk_batch": 24,
    "net_default_hparams": 256,
    "net_standalone_names_whamr": 24,
}
TOLERANCE = 1e-10  # float64, of the largest output


def published(name: str) -> dict[str, Tensor]:
    arrays = load_file(GOLDEN / f"{name}.safetensors")
    return {key[2:]: value for key, value in arrays.items() if key.startswith("w.")}


def write_clearvoice(tensors: dict[str, Tensor], folder: Path) -> Path:
    folder.mkdir()
    state = {"optimizer": {"state": {}, "param_groups": [{"lr": 1e-3}]}, "epoch": 3, "step": 7}
    torch.save({"model": tensors, **state}, folder / "best.pt")
    (folder / CLEARVOICE).write_text("best.pt\n")
    return folder


def write_parallel(tensors: dict[str, Tensor], folder: Path) -> Path:
    return write_clearvoice({f"module.{k}": v for k, v in tensors.items()}, folder)


def write_wrapped(tensors: dict[str, Tensor], folder: Path) -> Path:
    return write_clearvoice({f"module.model.{k}": v for k, v in tensors.items()}, folder)


def write_modelscope(tensors: dict[str, Tensor], folder: Path) -> Path:
    folder.mkdir()
    torch.save(tensors, folder / "pytorch_model.bin")
    (folder / "configuration.json").write_text("{}")
    return folder


def write_safetensors(tensors: dict[str, Tensor], folder: Path) -> Path:
    folder.mkdir()
    save_file(tensors, folder / "weights.safetensors")
    return folder / "weights.safetensors"


def write_parts(tensors: dict[str, Tensor], folder: Path) -> Path:
    folder.mkdir()
    for name, prefix in PARTS.items():
        part = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
        torch.save(part, folder / name)
    return folder


def write_one_dictionary(tensors: dict[str, Tensor], folder: Path) -> Path:
    folder.mkdir()
    torch.save(tensors, folder / "whamr.ckpt")
    return folder / "whamr.ckpt"


CONTAINERS: list[tuple[str, Callable]] = [
    ("net_2spk", write_clearvoice),
    ("net_2spk", write_parallel),
    ("net_2spk", write_wrapped),
    ("net_2spk", write_modelscope),
    ("net_2spk", write_safetensors),
    ("net_3spk_batch", write_clearvoice),
    ("net_default_hparams", write_clearvoice),
    ("net_standalone_names_whamr", write_parts),
    ("net_standalone_names_whamr", write_one_dictionary),
]


@pytest.mark.parametrize(("name", "write"), CONTAINERS)
def test_converted_networks_give_the_published_outputs(tmp_path, name, write):
    source = write(published(name), tmp_path / ("whamr" if "whamr" in name else "net"))
    written = convert_mossformer2(source, tmp_path / "ours", group_size=GROUPS[name])
    assert written == "mossformer2"
    network = MossFormer2ForSpeechSeparation.from_pretrained(tmp_path / "ours").double().eval()
    arrays = load_file(GOLDEN / f"{name}.safetensors")
    with torch.no_grad():
        found = network(input_values=arrays["in.x"]).sources
    assert (found - arrays["out.y"]).abs().max() <= TOLERANCE * arrays["out.y"].abs().max()
    extractor = MossFormer2FeatureExtractor.from_pretrained(tmp_path / "ours")
    assert extractor.minimum_length == 3 * network.config.encoder_kernel_size // 2


def test_a_converted_enhancement_network_gives_the_published_mask(tmp_path):
    source = write_clearvoice(published("se_masknet"), tmp_path / "net")
    convert_mossformer2(source, tmp_path / "ours", group_size=24)
    network = MossFormer2ForSpeechEnhancement.from_pretrained(tmp_path / "ours").double().eval()
    assert network.config.sample_rate == 48000
    arrays = load_file(GOLDEN / "se_masknet.safetensors")
    with torch.no_grad():
        hidden = network.model(input_features=arrays["in.x"]).last_hidden_state
        found = network.mask_head(hidden, 0)
    assert (found - arrays["out.y"]).abs().max() <= TOLERANCE * arrays["out.y"].abs().max()


LAYOUTS = [
    ("net_2spk", "clearvoice"),
    ("net_2spk", "modelscope"),
    ("net_standalone_names_whamr", "standalone"),
    ("se_masknet", "clearvoice"),
]


@pytest.mark.parametrize(("name", "layout"), LAYOUTS)
def test_there_and_back_is_exact(tmp_path, name, layout):
    """Names, bits and dtypes, constants included."""
    tensors = published(name)
    source = write_one_dictionary(tensors, tmp_path / "net")
    convert_mossformer2(source, tmp_path / "ours", group_size=24)
    export_mossformer2(tmp_path / "ours", tmp_path / "theirs", layout=layout)
    back = read_tensors(tmp_path / "theirs")
    assert back.keys() == tensors.keys()
    for key, value in tensors.items():
        assert back[key].dtype == value.dtype
        assert torch.equal(back[key], value), key


def test_16_bits_stay_16_bits(tmp_path):
    tensors = {
        key: value if key.endswith((names.ROTATION, names.POSITIONS)) else value.bfloat16()
        for key, value in published("net_2spk").items()
    }
    convert_mossformer2(write_clearvoice(tensors, tmp_path / "net"), tmp_path / "ours")
    stored = load_file(tmp_path / "ours" / "model.safetensors")
    assert {value.dtype for value in stored.values()} == {torch.bfloat16}
    assert MossFormer2Config.from_pretrained(tmp_path / "ours").dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("changes", "count"),
    [({}, 1099), ({"memory": "plain", "input_features": 180, "output_features": 961}, 929)],
    ids=["separation", "enhancement"],
)
def test_published_sizes(changes, count):
    """Every tensor of the released networks has a place, and none is left."""
    shapes = names.shapes(MossFormer2Config(**changes))
    assert len(shapes) == count
    constants = [name for name in shapes if name.endswith((names.ROTATION, names.POSITIONS))]
    assert len(constants) == 25


@pytest.mark.parametrize(
    ("path", "rate", "mode"),
    [
        ("MossFormer2_SS_16K/last.pt", 16000, "multiply"),
        ("speech_mossformer2_separation_temporal_8k/last.pt", 8000, "multiply"),
        ("mossformer2-librimix-2spk/last.pt", 8000, "multiply"),
        ("mossformer2-whamr-2spk/last.pt", 8000, "direct"),
    ],
)
def test_names_tell_what_tensors_do_not(tmp_path, path, rate, mode):
    file = tmp_path / path
    file.parent.mkdir()
    torch.save(published("net_2spk"), file)
    convert_mossformer2(file, tmp_path / "ours")
    config = MossFormer2Config.from_pretrained(tmp_path / "ours")
    assert (config.sample_rate, config.mask_mode, config.group_size) == (rate, mode, 256)


def test_options_win_over_names(tmp_path):
    file = tmp_path / "whamr_16k.pt"
    torch.save(published("net_2spk"), file)
    chosen = ("--group_size", "32", "--sample_rate", "8000", "--mask_mode", "multiply")
    command.main([str(file), str(tmp_path / "ours"), *chosen])
    config = MossFormer2Config.from_pretrained(tmp_path / "ours")
    assert (config.sample_rate, config.mask_mode, config.group_size) == (8000, "multiply", 32)
    command.main([str(tmp_path / "ours"), str(tmp_path / "theirs"), "--layout", "standalone"])
    assert sorted(path.name for path in (tmp_path / "theirs").iterdir()) == sorted(PARTS)


class TestRefused:
    """What does not fit is listed, and nothing is written."""

    @pytest.fixture
    def tensors(self) -> dict[str, Tensor]:
        return published("net_2spk")

    def refused(self, tensors: object, tmp_path: Path) -> str:
        torch.save(tensors, tmp_path / "net.pt")
        with pytest.raises(ConversionError) as caught:
            convert_mossformer2(tmp_path / "net.pt", tmp_path / "ours")
        assert not (tmp_path / "ours").exists()
        return str(caught.value)

    def test_every_difference_is_listed(self, tensors, tmp_path):
        del tensors["mask_net.prelu.weight"], tensors["dec.weight"]
        tensors |= {"mask_net.extra": torch.ones(1), "mask_net.norm.bias": torch.ones(31)}
        message = self.refused(tensors, tmp_path)
        assert "missing: dec.weight, mask_net.prelu.weight" in message
        assert "unexpected: mask_net.extra" in message
        assert "of another shape: mask_net.norm.bias (31,) instead of (32,)" in message

    def test_constants_are_compared(self, tensors, tmp_path):
        tensors["mask_net.pos_enc.inv_freq"] = tensors["mask_net.pos_enc.inv_freq"] + 1e-5
        assert "mask_net.pos_enc.inv_freq must hold 10000" in self.refused(tensors, tmp_path)

    def test_another_network(self, tmp_path):
        message = self.refused({"encoder.conv.weight": torch.ones(3)}, tmp_path)
        assert "the checkpoint lacks mask_net.conv1d_encoder.weight" in message

    @pytest.mark.parametrize("found", [{}, [1.0], {"model": {"a": 1}}, {"a": torch.ones(2).long()}])
    def test_no_dictionary_of_tensors(self, found, tmp_path):
        assert "net.pt must" in self.refused(found, tmp_path)

    def test_code_is_not_executed(self, tensors, tmp_path):
        class Evil:
            def __reduce__(self):
                return (Path.touch, (tmp_path / "executed",))

        torch.save({"model": tensors, "more": Evil()}, tmp_path / "net.pt")
        with pytest.raises(ConversionError, match="it was not executed"):
            convert_mossformer2(tmp_path / "net.pt", tmp_path / "ours")
        assert not (tmp_path / "executed").exists()

    @pytest.mark.parametrize("name", ["net.pt", "net.safetensors"])
    def test_a_damaged_file(self, tensors, tmp_path, name):
        file = tmp_path / name
        torch.save(tensors, file) if name == "net.pt" else save_file(tensors, file)
        file.write_bytes(file.read_bytes()[:-1000])
        with pytest.raises(OSError, match="is damaged or incomplete"):
            convert_mossformer2(file, tmp_path / "ours")

    def test_files_that_are_not_there(self, tensors, tmp_path):
        (tmp_path / "empty").mkdir()
        with pytest.raises(FileNotFoundError, match="must hold last_best_checkpoint"):
            convert_mossformer2(tmp_path / "empty", tmp_path / "ours")
        folder = write_clearvoice(tensors, tmp_path / "net")
        for name in ("gone.pt", "../net/best.pt"):
            (folder / CLEARVOICE).write_text(name)
            with pytest.raises(FileNotFoundError, match="which is not beside it"):
                convert_mossformer2(folder, tmp_path / "ours")

    def test_a_folder_that_is_not_empty(self, tensors, tmp_path):
        source = write_clearvoice(tensors, tmp_path / "net")
        with pytest.raises(FileExistsError, match="nothing is overwritten"):
            convert_mossformer2(source, source)
        with pytest.raises(FileExistsError, match="nothing is overwritten"):
            export_mossformer2(source, source)


class TestExportRefused:
    @pytest.fixture
    def ours(self, tmp_path) -> Path:
        source = write_clearvoice(published("net_2spk"), tmp_path / "net")
        convert_mossformer2(source, tmp_path / "ours")
        return tmp_path / "ours"

    def test_an_unknown_layout(self, ours, tmp_path):
        with pytest.raises(ValueError, match="layout must be one of clearvoice"):
            export_mossformer2(ours, tmp_path / "theirs", layout="huggingface")

    def test_causal_networks(self, ours, tmp_path):
        config = json.loads((ours / "config.json").read_text())
        (ours / "config.json").write_text(json.dumps(config | {"causal": True}))
        with pytest.raises(ConversionError, match="causal must be False"):
            export_mossformer2(ours, tmp_path / "theirs")

    def test_tensors_that_do_not_fit(self, ours, tmp_path):
        stored = load_file(ours / "model.safetensors")
        gone = sorted(stored)[0]
        del stored[gone]
        save_file(stored, ours / "model.safetensors")
        with pytest.raises(ConversionError, match=f"missing: {gone}"):
            export_mossformer2(ours, tmp_path / "theirs")
