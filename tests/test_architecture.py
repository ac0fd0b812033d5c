# SPDX-License-Identifier: Apache-2.0
"""The house rules that a reader relies on: floors point down, families share their rooms."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
OPS = ROOT / "kernels" / "seqlib_kernels"
LIBRARY = [*sorted(OPS.rglob("*.py")), *sorted((ROOT / "seqlib").rglob("*.py"))]

# What each part may import of the project, longest prefix first.
FLOORS = {
    "recipes": {"seqlib_kernels", "seqlib", "recipes"},
    "bench": {"seqlib_kernels", "seqlib", "bench"},
    "hf_hub": {"seqlib_kernels", "seqlib", "hf_hub"},
    "seqlib.training": {"seqlib_kernels", "seqlib"},
    "seqlib.data": {"seqlib_kernels", "seqlib"},
    "seqlib.evaluation": {"seqlib_kernels", "seqlib"},
    "seqlib.cli": {"seqlib_kernels", "seqlib"},
    "seqlib.models": {
        *("seqlib_kernels", "seqlib.models", "seqlib.mixers", "seqlib.layers", "seqlib.audio"),
    },
    "seqlib.mixers": {"seqlib_kernels", "seqlib.mixers", "seqlib.layers"},
    "seqlib.layers": {"seqlib_kernels", "seqlib.layers"},
    "seqlib.audio": {"seqlib.audio"},
    "seqlib": {"seqlib.models"},
    "seqlib_kernels": {"seqlib_kernels"},
}
PROJECT = ("seqlib", "seqlib_kernels", "recipes", "bench", "hf_hub")


def module_name(path: Path) -> str:
    base = ROOT / "kernels" if OPS in path.parents else ROOT
    parts = path.relative_to(base).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def within(name: str, prefix: str) -> bool:
    return name == prefix or name.startswith(prefix + ".")


def imported(path: Path) -> list[str]:
    """Absolute names of every module that a file imports, at any depth of its code."""
    package = module_name(path).split(".")
    if path.name != "__init__.py":
        package = package[:-1]
    names = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            stem = ".".join([*base, *([node.module] if node.module else [])])
            names += [f"{stem}.{alias.name}" for alias in node.names]
    return names


def sources(*folders: str) -> list[Path]:
    return [path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]


ALL = [*LIBRARY, *sources("recipes", "bench", "hf_hub")]


@pytest.mark.parametrize("path", ALL, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_only_point_down(path):
    name = module_name(path)
    floor = max((f for f in FLOORS if within(name, f)), key=len)
    for target in imported(path):
        if target.split(".")[0] in PROJECT:
            assert any(within(target, ok) for ok in FLOORS[floor]), f"{name} imports {target}"


@pytest.mark.parametrize("path", sorted(OPS.rglob("*.py")), ids=lambda p: str(p.relative_to(OPS)))
def test_families_know_only_the_core_and_themselves(path):
    parts = module_name(path).split(".")
    if len(parts) < 2 or parts[1] in ("testing",):
        return
    for target in imported(path):
        inner = target.split(".")
        if inner[0] == "seqlib_kernels" and len(inner) > 1:
            own = inner[1] in ("_core", parts[1])
            assert own or inner[2:3] == ["op"], f"{module_name(path)} imports {target}"


def test_only_kernel_files_import_triton():
    for path in LIBRARY:
        if not path.name.startswith("kernels"):
            assert not any(within(t, "triton") for t in imported(path)), path


BANNED = {
    r"make_block_ptr|tl\.advance": "block pointers are gone from Triton",
    r"triton\.autotune": "tuning is a command of the benchmark; its winners stand in launch.py",
    r"\.cuda\(": "the device is the caller's choice",
    r"\bT: tl\.constexpr": "a new length must not compile anew",
    r"tl\.libdevice|libdevice\.": "libdevice does not run in the interpreter",
    r"tl\.atomic": "results are deterministic",
    r"\[:, t\b": "in a loop over time its backward pass is quadratic in the length: unbind once",
    r"\b(TODO|FIXME|XXX|HACK)\b": "what is left to do is said where it is tracked, not in the code",
}


@pytest.mark.parametrize("pattern", BANNED)
def test_banned_constructs(pattern):
    for path in LIBRARY:
        found = re.search(pattern, path.read_text(encoding="utf-8"))
        assert not found, f"{path}: {found and found[0]}: {BANNED[pattern]}"


def test_products_in_kernels_state_their_precision():
    """Triton's default is TF32 for float32 on a GPU, and exact in the interpreter."""
    for path in OPS.rglob("kernels*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in ("tl.dot", "tl.dot_scaled"):
                given = {keyword.arg for keyword in node.keywords}
                assert "input_precision" in given, f"{path}:{node.lineno}"


def test_only_tiles_from_memory_are_transposed():
    """A transposed sum of products that feeds another product has been miscompiled on Hopper."""
    seen = 0
    for path in OPS.rglob("kernels*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for function in (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)):
            nodes = list(ast.walk(function))
            assigned = [
                (ast.unparse(node.targets[0]), ast.unparse(node.value))
                for node in nodes
                if isinstance(node, ast.Assign)
            ]
            for node in nodes:
                if not (isinstance(node, ast.Call) and ast.unparse(node.func) == "tl.trans"):
                    continue
                name = ast.unparse(node.args[0]).split(".to(")[0]
                made = [value for target, value in assigned if target == name]
                loads = [v.startswith(("tl.load(", "row_block(")) for v in made if name not in v]
                assert set(loads) == {True}, f"{path}:{node.lineno}: {name} = {made}"
                seen += 1
    assert seen


def test_public_ops_raise_errors_that_survive_optimised_python():
    for path in LIBRARY:
        if path.name in ("op.py", "step.py", "checks.py", "varlen.py"):
            tree = ast.parse(path.read_text(encoding="utf-8"))
            assert not any(isinstance(node, ast.Assert) for node in ast.walk(tree)), path


def test_the_folder_kernels_is_not_a_package():
    """A package called `kernels` would hide the Hugging Face one that transformers imports."""
    assert not (ROOT / "kernels" / "__init__.py").exists()
    assert not (ROOT / "kernels.py").exists()


def test_every_family_has_the_same_rooms():
    """A family of several recurrences has a folder for each; what has no state has no step."""
    rooms = {
        "__init__.py", "reference.py", "op.py", "cpu.py", "kernels.py", "launch.py", "spec.py",
        "README.md",
    }  # fmt: skip
    families = [p for p in OPS.iterdir() if p.is_dir() and p.name[0] not in "_."]
    assert families
    for family in families:
        ops = [family] if (family / "op.py").exists() else [*family.glob("*/")]
        ops = [op for op in ops if op.name != "__pycache__"]
        assert ops, f"{family.name} has no op"
        for op in ops:
            step = "return_final_state" in (op / "op.py").read_text(encoding="utf-8")
            wanted = rooms | {"step.py"} if step else rooms
            missing = wanted - {p.name for p in op.iterdir()}
            assert not missing, f"{op.relative_to(OPS)} lacks {sorted(missing)}"


def test_every_file_opens_with_a_licence_line_and_a_docstring():
    for path in [*ALL, *sources("tests")]:
        text = path.read_text(encoding="utf-8")
        assert text.startswith("# SPDX-License-Identifier: Apache-2.0\n"), path
        assert ast.get_docstring(ast.parse(text)), path
