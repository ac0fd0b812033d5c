# SPDX-License-Identifier: Apache-2.0
"""Training on transformers' Trainer: settings, exact resume, time budgets, records of runs."""
