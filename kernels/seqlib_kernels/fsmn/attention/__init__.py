# SPDX-License-Identifier: Apache-2.0
"""Joint attention: squared-relu attention within groups, linear attention beyond, a crossed gate."""
