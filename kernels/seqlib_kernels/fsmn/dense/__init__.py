# SPDX-License-Identifier: Apache-2.0
"""The dense dilated memory of separation models; every layer is normalised over its sequence."""
