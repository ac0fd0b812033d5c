# SPDX-License-Identifier: Apache-2.0
"""Benchmarks: numbers checked against float64 first, traceable to a commit and a device."""
