# SPDX-License-Identifier: Apache-2.0
"""A folder has its name only once its bytes are on the disk; nothing half written stays."""

import os
from pathlib import Path

import pytest

from seqlib.models.whole_folder import move_into_place, whole_folder


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_the_name_comes_after_the_bytes(tmp_path, monkeypatch):
    done, replace = [], os.replace
    monkeypatch.setattr(
        os, "fsync", lambda handle: done.append(Path(os.readlink(f"/proc/self/fd/{handle}")).name)
    )
    monkeypatch.setattr(os, "replace", lambda *a: (done.append("renamed"), replace(*a)))
    with whole_folder(tmp_path / "new") as growing:
        (growing / "a").write_text("1")
        (growing / "deep").mkdir()
        (growing / "deep" / "b").write_text("2")
        assert names(tmp_path) == [".new.incomplete"]
    assert done == ["a", "deep", "b", ".new.incomplete", "renamed", tmp_path.name]
    assert names(tmp_path) == ["new"]
    assert (tmp_path / "new" / "deep" / "b").read_text() == "2"


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_an_error_leaves_nothing(tmp_path, error):
    def fail():
        with whole_folder(tmp_path / "new") as growing:
            (growing / "a").write_text("1")
            raise error

    with pytest.raises(error):
        fail()
    assert names(tmp_path) == []


def test_what_a_killed_process_left_is_removed(tmp_path):
    (tmp_path / ".new.incomplete").mkdir()
    (tmp_path / ".new.incomplete" / "half").write_text("1")
    with whole_folder(tmp_path / "new") as growing:
        assert names(growing) == []
    assert names(tmp_path) == ["new"]


def test_a_folder_that_is_reached_by_a_link_or_lacks_its_parents(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to("empty")
    for folder in (tmp_path / "link", tmp_path / "deep" / "new"):
        with whole_folder(folder) as growing:
            (growing / "a").write_text("1")
        assert names(folder) == ["a"]
    assert names(tmp_path) == ["deep", "empty", "link"]


def test_only_who_asks_for_it_replaces_files(tmp_path):
    for folder in ("old", "new"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / folder).write_text("1")
    with pytest.raises(OSError, match="not empty"):
        move_into_place(tmp_path / "new", tmp_path / "old")
    assert names(tmp_path / "old") == ["old"]
    move_into_place(tmp_path / "new", tmp_path / "old", over=True)
    assert names(tmp_path) == ["old"]
    assert names(tmp_path / "old") == ["new"]
