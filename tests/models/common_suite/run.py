# SPDX-License-Identifier: Apache-2.0
"""Hold seqlib's models against the common test suites of the installed transformers.

The suites are in the source distribution of transformers only, so this is not part of the default
run. With the version that is installed:

    pip download --no-deps --no-binary :all: transformers==VERSION
    tar xf transformers-VERSION.tar.gz
    python tests/models/common_suite/run.py transformers-VERSION [pytest arguments]

One test is left out: it asks for a generation suite that the distribution does not hold.
"""

import shutil
import sys
import tempfile
from pathlib import Path

import pytest
import transformers

# What the suites import and the distribution lacks. The keywords are those that every
# configuration takes.
STUBS = {
    "__init__.py": "",
    "exporters/test_export.py": "class ExportTesterMixin:\n    pass\n",
    "generation/test_utils.py": "class GenerationTesterMixin:\n    pass\n",
    "utils/test_configuration_utils.py": """
config_common_kwargs = {
    "return_dict": False,
    "output_hidden_states": True,
    "output_attentions": True,
    "dtype": "float16",
    "chunk_size_feed_forward": 5,
    "architectures": ["SomeModel"],
    "id2label": {0: "label"},
    "label2id": {"label": "0"},
    "problem_type": "regression",
}
""",
}


def main(source: Path, arguments: list[str]) -> int:
    """Run the suites of the unpacked distribution in `source`."""
    if not (source / "tests" / "test_modeling_common.py").is_file():
        raise SystemExit(f"{source} must be an unpacked source distribution of transformers")
    if not source.name.endswith(transformers.__version__):
        raise SystemExit(
            f"{source.name} must be of the installed version, {transformers.__version__}"
        )
    with tempfile.TemporaryDirectory() as folder:
        tests = Path(folder) / "tests"
        shutil.copytree(source / "tests", tests)
        for name, text in STUBS.items():
            (tests / name).parent.mkdir(exist_ok=True)
            (tests / name).write_text(text, encoding="utf-8")
        shutil.copy(Path(__file__).with_name("suite.py"), tests / "test_seqlib.py")
        sys.path.insert(0, folder)
        own = [
            "--rootdir",
            folder,
            "-c",
            "/dev/null",
            "-p",
            "no:cacheprovider",
            "-p",
            "no:randomly",
        ]
        own += ["-q"]
        own += ["-W", "ignore::pytest.PytestUnknownMarkWarning"]
        return pytest.main([*own, *arguments, str(tests / "test_seqlib.py")])


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]).resolve(), sys.argv[2:]))
