# SPDX-License-Identifier: Apache-2.0
"""Flat files: every form of import that is followed, and every one that is refused."""

import importlib
import sys

import pytest
from transformers.dynamic_module_utils import get_relative_import_files

from seqlib.models import flat_code
from seqlib.models.export import check_scan

HOUSE = {
    "house/__init__.py": "from .floor.room import chair as seat\n",
    "house/floor/__init__.py": "from . import room\nLAMP = 'lamp'\n",
    "house/floor/room.py": '"""A room."""\nchair = "chair"\n',
    "house/floor/deep/__init__.py": "",
    "house/floor/deep/cellar.py": """
from ... import seat
from .. import LAMP, room as above
from ..room import (
    chair,  # with a comment
    chair as stool,
)
import house.floor.room as absolute
import os, sys

def later():
    from . import box
    from .box import lid as top

    return box.lid, top

def fast():
    import numba
""",
    "house/floor/deep/box.py": "lid = 'ä lid'; side = 'side'\n",
}


@pytest.fixture
def build(tmp_path, monkeypatch):
    """Writes a package `house` and makes it the project."""

    def build(**changed):
        for name, text in {**HOUSE, **changed}.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")

    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(flat_code, "PACKAGES", ("house",))
    return build


def test_every_form_is_followed_and_the_files_run(build, tmp_path, monkeypatch):
    build()
    code = flat_code.flatten(["house.floor.deep.cellar"])
    assert set(code.files) == {
        "house_floor", "house_floor_room", "house_floor_deep_box", "house_floor_deep_cellar",
    }  # fmt: skip
    assert code.requires == {"os", "sys"}
    flat = tmp_path / "flat"
    flat.mkdir()
    for name, text in {**code.files, "__init__": ""}.items():
        (flat / f"{name}.py").write_text(text, encoding="utf-8")
    found = get_relative_import_files(flat / "house_floor_deep_cellar.py")
    assert {name.rpartition("/")[2] for name in found} == {
        "house_floor.py", "house_floor_room.py", "house_floor_deep_box.py",
    }  # fmt: skip
    monkeypatch.setitem(sys.modules, "house", None)
    cellar = importlib.import_module("flat.house_floor_deep_cellar")
    assert (cellar.seat, cellar.LAMP, cellar.stool) == ("chair", "lamp", "chair")
    assert cellar.above is cellar.absolute is sys.modules["flat.house_floor_room"]
    assert cellar.later() == ("ä lid", "ä lid")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("import house.floor", "write `import module as name`"),
        ("import house", "write `import module as name`"),
        ("from .room import *", "which names it brings is not written there"),
        ("import importlib; importlib.import_module('.room', __package__)", "not written there"),
        ("x = 1; from .room import chair", "it shares its line"),
        ("from .room import chair; x = 1", "it shares its line"),
        ("from ....away import x", "it leaves its package"),
        ("from .nowhere import x", "there is no module house.floor.nowhere"),
        ("from .room import sofa", "'sofa' from house_floor_room, which does not define it"),
        ("from . import sofa", "'sofa' from house_floor, which does not define it"),
        ("from house.floor_ import x\nfrom house.floor import LAMP", "there is no module"),
    ],
)
def test_what_cannot_be_read_from_the_text_is_refused(build, line, message):
    build(**{"house/floor/hall.py": f"{line}\n", "house/floor/__init__.py": "LAMP = 1\n"})
    with pytest.raises(ValueError, match=message):
        flat_code.flatten(["house.floor.hall"])


def test_two_modules_may_not_share_a_file(build):
    build(**{"house/floor_room.py": "from .floor.room import chair\n"})
    with pytest.raises(ValueError, match=r"would both be house_floor_room\.py"):
        flat_code.flatten(["house.floor_room"])


def test_text_that_only_looks_like_an_import_is_noticed(build):
    build(**{"house/hall.py": '"""Use it so:\n\n    from .nowhere import x\n"""\n'})
    files = {**flat_code.flatten(["house.hall"]).files, "entry": "from .house_hall import x\n"}
    with pytest.raises(ValueError, match=r"would look for .*nowhere\.py"):
        check_scan(files, "entry")


def test_a_file_that_the_scan_does_not_find_is_noticed():
    files = {"entry": "from .near import x\n", "near": "from . import far\n", "far": ""}
    with pytest.raises(ValueError, match=r"would not load \['far'\]"):
        check_scan(files, "entry")


def test_operators_of_a_copy_need_their_line(monkeypatch):
    line, new = flat_code._REPLACED["seqlib_kernels._core.ops"]
    assert new in flat_code.flatten(["seqlib_kernels._core.ops"]).files["seqlib_kernels__core_ops"]
    monkeypatch.setitem(flat_code._REPLACED, "seqlib_kernels._core.ops", (line + "#", new))
    with pytest.raises(ValueError, match="must hold the line"):
        flat_code.flatten(["seqlib_kernels._core.ops"])
