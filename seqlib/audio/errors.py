# SPDX-License-Identifier: Apache-2.0
"""The error of whoever is given sound."""


class AudioError(ValueError):
    """A recording that can't be used; the message names it, the property and the rule."""
