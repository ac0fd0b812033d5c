# SPDX-License-Identifier: Apache-2.0
"""The report, the picture and the table on the screen."""

import dataclasses

from rich.console import Console

from bench import records, report
from bench.screen import show
from bench.tables import best_peer_s, cells, seconds


def test_report_and_picture_are_written(tmp_path, rows):
    elsewhere = [dataclasses.replace(r, device="Another processor", dirty=True) for r in rows]
    records.append(tmp_path, [*rows, *elsewhere])
    report.write_report(tmp_path)
    text = (tmp_path / report.REPORT).read_text()
    assert "## A processor" in text
    assert "## Another processor" in text
    assert "commit 0123456789ab; 2026" in text
    assert "commit 0123456789ab (changed files)" in text
    assert (
        "| seqlib cpu | 1 ms | 2 ms | 50 / 50 % | 4.00x / 4.50x | 1.5 s + 1.5 s | 3 MiB |" in text
    )
    assert "| wrong peer | wrong: da is off by 3.0e-01 |" in text
    assert "slow peer: 3.2.1" in text
    assert (tmp_path / report.CHART).read_bytes().startswith(b"\x89PNG")


def test_the_report_has_one_table_row_per_contender(rows):
    table = [line for line in report.text(rows).splitlines() if line.startswith("|")]
    assert len(table) == 2 + 3
    assert len({line.count(" | ") for line in table}) == 1


def test_only_peers_that_are_right_set_the_yardstick(rows):
    assert best_peer_s(rows, "both") == 9e-3
    assert best_peer_s(rows[:2], "both") is None


def test_the_fastest_comes_first_and_the_red_last(rows):
    assert [row.contender for row, _ in cells(rows[2:] + rows[:2])] == [
        "seqlib cpu",
        "slow peer",
        "wrong peer",
    ]


def test_red_rows_alone_make_a_report_too(tmp_path, rows):
    records.append(tmp_path, rows[4:])
    report.write_report(tmp_path)
    assert "wrong: da is off" in (tmp_path / report.REPORT).read_text()


def test_a_bar_in_a_message_does_not_break_the_table(row):
    red = {"status": "failed", "message": "a|b", "headline_s": None, "best_s": None}
    assert r"failed: a\|b" in report.text([dataclasses.replace(row, **red)])


def test_the_screen_fits_eighty_columns(rows, capsys):
    show(rows, Console(width=80))
    text = capsys.readouterr().out
    assert max(map(len, text.splitlines())) <= 80
    assert "4.00x / 4.50x" in text


def test_units():
    assert [seconds(x) for x in (None, 2.0, 0.0123, 4.56e-6, 7e-9)] == [
        "-",
        "2 s",
        "12.3 ms",
        "4.56 us",
        "7 ns",
    ]
