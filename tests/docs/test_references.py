# SPDX-License-Identifier: Apache-2.0
"""What pages point at is there: links, files, commands, settings, measurements."""

import ast
import dataclasses
import json
import re

import pytest
import seqlib_kernels
from pages import PAGES, ROOT, code, name

from bench.records import FILE
from bench.suites import SUITES
from seqlib.mixers import MIXERS
from seqlib.training.arguments import TrainSettings

each_page = pytest.mark.parametrize("page", PAGES, ids=name)


@each_page
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#\s]+)\)", page.read_text(encoding="utf-8")):
        if "://" not in target:
            assert (page.parent / target).exists(), target


@each_page
def test_files_exist(page):
    """Paths from the root; words in capitals stand for something, and so do globs."""
    folders = "recipes|bench|hf_hub|kernels|seqlib|tests"
    for piece in code(page):
        for path in re.findall(rf"(?<![\w/.-])(?:{folders})/[\w./*-]+", piece):
            if not re.search(r"[A-Z*]{2,}|\*", path) and not path.startswith("bench/out"):
                assert (ROOT / path.rstrip(".")).exists(), path


@each_page
def test_make_targets_exist(page):
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M)
    for piece in code(page):
        for target in re.findall(r"^make ([a-z-]+)", piece):
            assert target in targets


def recipe_settings(recipe):
    """The names of every setting of a recipe, its own and those of the library."""
    names = {field.name for field in dataclasses.fields(TrainSettings)}
    for script in [*recipe.glob("*.py"), *(ROOT / "seqlib" / "training").glob("*.py")]:
        for node in ast.walk(ast.parse(script.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef):
                fields = (x.target for x in node.body if isinstance(x, ast.AnnAssign))
                names |= {target.id for target in fields if isinstance(target, ast.Name)}
    return names


@pytest.mark.parametrize("page", sorted(ROOT.glob("recipes/*/README.md")), ids=name)
def test_settings_exist(page):
    launcher = {"config_file", "num_processes", "cpu"}
    recipes = [page.parent] if (page.parent / "train.py").exists() else []
    recipes = recipes or [path.parent for path in ROOT.glob("recipes/*/train.py")]
    known = launcher.union(*map(recipe_settings, recipes))
    for piece in code(page):
        for flag in re.findall(r"(?<!\S)--([a-z]\w*)", piece):
            assert flag in known | {"setting"}


def named_in_readme(*heading):
    """The first cells of the README's table whose heading starts so."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    start = re.escape("".join(f"| {word} " for word in heading))
    (table,) = re.findall(rf"^{start}\|.*\n((?:\|.*\n)+)", text, re.M)
    return set(re.findall(r"^\| `(\w+)` \|", table, re.M))


def test_every_op_and_every_mixer_is_in_the_readme():
    helpers = {"BackendUnavailableError", "JointAttentionState", "use_backend"}
    names = set(seqlib_kernels.__all__) - helpers
    ops = {name for name in names if not name.endswith(("_step", "_segment"))}
    assert named_in_readme("op", "what") == ops
    assert named_in_readme("mixer", "state") == set(MIXERS)


def test_suites_are_described():
    text = (ROOT / "bench" / "README.md").read_text(encoding="utf-8")
    assert re.findall(r"^\| `([a-z-]+)` \|", text, re.M) == list(SUITES)


def test_speeds_were_measured():
    """Each row of the README's table, two digits a number, is a workload that was recorded."""
    table = re.findall(
        r"^\| `(\w+)`[^|]*\|[^|]*\| ([\d.]+) / ([\d.]+) ms \| ([\d.]+) / ([\d.]+) ms \|",
        (ROOT / "README.md").read_text(encoding="utf-8"),
        re.M,
    )
    assert table
    measured = {op: [] for op, *_ in table}
    groups = {}
    for line in (ROOT / "bench" / "results" / "cpu" / FILE).read_text().splitlines():
        row = json.loads(line)
        if row["headline_s"] and row["threads"] == 1 and row["mode"] != "backward":
            key = row["op"], row["case"], str(row["shape"])
            times = groups.setdefault(key, {}).setdefault((row["ours"], row["mode"]), [])
            times.append(1e3 * row["headline_s"])
    for (op, *_), times in groups.items():
        modes = ((True, "forward"), (True, "both"), (False, "forward"), (False, "both"))
        measured.setdefault(op, []).append([min(times[mode]) for mode in modes])
    for op, *said in table:
        assert any(
            all(abs(float(s) - m) <= 0.05 * m for s, m in zip(said, found, strict=True))
            for found in measured[op]
        ), f"no workload of {op} took {said} ms"
