# SPDX-License-Identifier: Apache-2.0
"""Tests are no package: let this folder's helpers be imported by name."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
