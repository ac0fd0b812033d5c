# SPDX-License-Identifier: Apache-2.0
"""Joint attention: squared relu within groups, linear beyond them, and a crossed gate."""
