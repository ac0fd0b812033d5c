# SPDX-License-Identifier: Apache-2.0
"""The source of this project as flat files, for checkpoints that carry their code.

transformers finds the files of such a checkpoint by scanning text for `from .name import`, and
knows no sub-folders. So each module becomes one file named by its dotted path, and each import
between modules is rewritten to that form; names that a package passes on are imported from where
they are defined, and `from . import module` gets a line in front of it that the scan sees.
"""

import ast
import importlib.util
import symtable
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

PACKAGES = ("seqlib", "seqlib_kernels")
# Without them the code runs, slower; transformers refuses files with unguarded imports of them.
OPTIONAL = {"llvmlite", "numba", "triton"}

# An operator can be defined once per process: every copy of the code needs its own namespace.
_REPLACED = {
    "seqlib_kernels._core.ops": (
        'NAMESPACE = "seqlib"\n',
        "import hashlib\n\n"
        'NAMESPACE = f"seqlib_{hashlib.sha256(__name__.encode()).hexdigest()[:16]}"\n',
    )
}


@dataclass
class FlatCode:
    """Files by name, without `.py`, and the packages of others that they can't do without."""

    files: dict[str, str] = field(default_factory=dict)
    requires: set[str] = field(default_factory=set)


def flat_name(module: str) -> str:
    """The name of a module's file."""
    return module.replace(".", "_")


def flatten(modules: Iterable[str]) -> FlatCode:
    """The flat files of `modules` and of all that they import of this project, at any depth.

    Raises:
        ValueError: an import that can't be followed or rewritten, or one of a name that is not
            there; the message says where.
    """
    code = FlatCode()
    owners: dict[str, str] = {}
    waiting = list(modules)
    while waiting:
        module = waiting.pop()
        name = flat_name(module)
        if owners.setdefault(name, module) != module:
            raise ValueError(f"{module} and {owners[name]} would both be {name}.py")
        if name not in code.files:
            source = _Module(module)
            code.files[name] = source.flat_text()
            code.requires |= source.requires
            waiting += sorted(source.needs)
    _check_names(code.files)
    return code


def _check_names(files: dict[str, str]) -> None:
    """Hold every name that one file imports from another to being defined there."""
    defined = {name: set(_defined(text)) for name, text in files.items()}
    for name, text in files.items():
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.ImportFrom) and node.module and node.level:
                for alias in node.names:
                    if alias.name not in defined[node.module]:
                        raise ValueError(
                            f"{name} imports {alias.name!r} from {node.module}, which does not "
                            "define it"
                        )


def _defined(text: str) -> Iterator[str]:
    yield "__name__"
    for symbol in symtable.symtable(text, "<flat file>", "exec").get_symbols():
        if symbol.is_assigned() or symbol.is_imported():
            yield symbol.get_name()


class _Module:
    """One module: its text as a flat file, the modules it needs and the packages it requires."""

    def __init__(self, module: str) -> None:
        self.module = module
        self.path = _path(module)
        self.needs: set[str] = set()
        self.requires: set[str] = set()

    def flat_text(self) -> str:
        """The text with rewritten imports."""
        text = self.path.read_text(encoding="utf-8")
        lines = [line.encode() for line in text.splitlines(keepends=True)]
        nodes = list(ast.walk(ast.parse(text)))
        self._refuse_dynamic_imports(nodes)
        imports = [node for node in nodes if isinstance(node, ast.Import | ast.ImportFrom)]
        for node in sorted(imports, key=lambda node: -node.lineno):
            new = self._rewrite(node)
            if new is None:
                continue
            end = node.end_lineno or node.lineno
            indent = lines[node.lineno - 1][: node.col_offset]
            tail = lines[end - 1][node.end_col_offset :]
            if indent.strip() or tail.lstrip().startswith(b";"):
                raise self._refusal(node, "it shares its line with other statements")
            lines[node.lineno - 1 : end] = [b"\n".join(indent + x.encode() for x in new) + tail]
        text = b"".join(lines).decode()
        if self.module in _REPLACED:
            old, new = _REPLACED[self.module]
            if text.count(old) != 1:
                raise ValueError(f"{self.path} must hold the line {old!r} once")
            text = text.replace(old, new)
        return text

    def origin(self, node: ast.ImportFrom) -> str:
        """The absolute name of the module that a `from` import reads."""
        if not node.level:
            return node.module or ""
        package = self.module.split(".")
        kept = len(package) - node.level + (self.path.name == "__init__.py")
        if kept < 1:
            raise self._refusal(node, "it leaves its package")
        return ".".join([*package[:kept], *([node.module] if node.module else [])])

    def _rewrite(self, node: ast.Import | ast.ImportFrom) -> list[str] | None:
        """The lines that stand for an import; None where it stays as it is."""
        if isinstance(node, ast.ImportFrom):
            origin = self.origin(node)
            if _ours(origin):
                return self._from_ours(node, origin)
            packages = {origin.split(".")[0]}
        else:
            if any(_ours(alias.name) for alias in node.names):
                return self._whole_module(node)
            packages = {alias.name.split(".")[0] for alias in node.names}
        if packages & OPTIONAL:
            return ["try:", f"    {ast.unparse(node)}", "except ImportError:", "    raise"]
        self.requires |= packages
        return None

    def _from_ours(self, node: ast.ImportFrom, origin: str) -> list[str]:
        lines: list[str] = []
        names: dict[str, list[str]] = {}
        for alias in node.names:
            if alias.name == "*":
                raise self._refusal(node, "which names it brings is not written there")
            module, name = _definition(origin, alias.name)
            self.needs.add(module)
            if name is None:
                lines += _import_module(flat_name(module), alias.asname or alias.name)
            else:
                names.setdefault(flat_name(module), []).append(
                    _as(name, alias.asname or alias.name)
                )
        return [*(f"from .{file} import {', '.join(names[file])}" for file in names), *lines]

    def _whole_module(self, node: ast.Import) -> list[str]:
        alias = node.names[0]
        if len(node.names) > 1 or alias.asname is None:
            raise self._refusal(node, "write `import module as name`, one per line")
        self.needs.add(alias.name)
        return _import_module(flat_name(alias.name), alias.asname)

    def _refuse_dynamic_imports(self, nodes: list[ast.AST]) -> None:
        for node in nodes:
            if isinstance(node, ast.Call):
                called = ast.unparse(node.func).split(".")[-1]
                if called in ("import_module", "__import__"):
                    raise self._refusal(node, "what it imports is not written there")

    def _refusal(self, node: ast.expr | ast.stmt, why: str) -> ValueError:
        what = ast.unparse(node)
        return ValueError(f"{self.path}:{node.lineno}: {what!r} can't go into a checkpoint: {why}")


def _import_module(flat: str, as_name: str) -> list[str]:
    return [
        f"from .{flat} import __name__ as _  # for transformers' scan",
        f"from . import {_as(flat, as_name)}",
    ]


def _as(name: str, as_name: str) -> str:
    return name if name == as_name else f"{name} as {as_name}"


def _ours(module: str) -> bool:
    return module.split(".")[0] in PACKAGES


def _path(module: str) -> Path:
    """The file of a module of this project."""
    package, *inner = module.split(".")
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise ValueError(f"the source of {package} must be installed as files")
    base = Path(spec.origin).parent.joinpath(*inner)
    for path in (base / "__init__.py", base.with_suffix(".py")):
        if path.is_file():
            return path
    raise ValueError(f"there is no module {module}")


def _definition(module: str, name: str) -> tuple[str, str | None]:
    """Where `name` of `module` comes from: a module and a name, or a module alone."""
    source = _Module(module)
    if source.path.name != "__init__.py":
        return module, name
    for node in ast.parse(source.path.read_text(encoding="utf-8")).body:
        if not isinstance(node, ast.ImportFrom):
            continue
        for alias in node.names:
            if name == (alias.asname or alias.name):
                origin = source.origin(node)
                if _ours(origin) and origin != module:
                    return _definition(origin, alias.name)
    folder = source.path.parent
    if (folder / f"{name}.py").is_file() or (folder / name / "__init__.py").is_file():
        return f"{module}.{name}", None
    return module, name
