# SPDX-License-Identifier: Apache-2.0
"""JSON lines: what is written is read, what is broken is named."""

import dataclasses
import json
import math

import pytest

from bench import records


def test_rows_survive_the_file(tmp_path, rows):
    records.append(tmp_path / "new", rows[:2])
    records.append(tmp_path / "new", rows[2:])
    assert records.read(tmp_path / "new") == rows
    lines = (tmp_path / "new" / records.FILE).read_text().splitlines()
    fields = [field.name for field in dataclasses.fields(records.Row)]
    assert all(list(json.loads(line)) == fields for line in lines)


def test_the_newest_row_of_a_key_counts(tmp_path, row):
    newer = dataclasses.replace(row, headline_s=1e-3, time="2026-02-02T00:00:00Z")
    elsewhere = dataclasses.replace(row, device="Another processor")
    records.append(tmp_path, [row, elsewhere, newer])
    assert records.read(tmp_path) == [newer, elsewhere]


def test_infinite_errors_become_null(tmp_path, row):
    wrong = {"status": "wrong", "headline_s": None, "errors": {"output": math.inf}}
    records.append(tmp_path, [dataclasses.replace(row, **wrong)])
    assert records.read(tmp_path)[0].errors == {"output": None}


@pytest.mark.parametrize("status", ["wrong", "failed"])
def test_red_rows_have_no_speed(row, status):
    with pytest.raises(ValueError, match="must report no speed"):
        dataclasses.replace(row, status=status)


@pytest.mark.parametrize(("name", "value"), [("mode", "backwards"), ("status", "fine")])
def test_unknown_words_are_refused(row, name, value):
    with pytest.raises(ValueError, match=f"{name} must be one of .* got '{value}'"):
        dataclasses.replace(row, **{name: value})


@pytest.mark.parametrize("line", ["{", '{"op": "linear_scan"}', "[1]", '"text"'])
def test_a_line_that_is_no_row_is_named(tmp_path, row, line):
    records.append(tmp_path, [row])
    with (tmp_path / records.FILE).open("a") as file:
        file.write(line + "\n")
    with pytest.raises(ValueError, match="line 2, is no result"):
        records.read(tmp_path)


def test_a_folder_without_results_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError, match="no results"):
        records.read(tmp_path)
