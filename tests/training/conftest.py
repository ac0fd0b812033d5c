# SPDX-License-Identifier: Apache-2.0
"""The tiny run as a module, and the losses of one that nothing interrupted."""

import importlib.util
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def tiny():
    path = Path(__file__).with_name("tiny_run.py")
    spec = importlib.util.spec_from_file_location("tiny_run", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def uninterrupted(tiny, tmp_path_factory):
    """Losses by step, and the folder of the run."""
    folder = tmp_path_factory.mktemp("uninterrupted")
    return tiny.losses(tiny.train(folder)), folder
