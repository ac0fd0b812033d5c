# SPDX-License-Identifier: Apache-2.0
"""Mamba's selective scan: a diagonal recurrence whose step sizes, inputs and outputs vary."""
