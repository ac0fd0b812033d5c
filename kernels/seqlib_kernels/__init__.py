# SPDX-License-Identifier: Apache-2.0
"""The public ops of seqlib: recurrences with a structured transition, one fused kernel each."""

from ._core.backend import BackendUnavailableError, use_backend
from .delta_rule.op import delta_rule
from .delta_rule.step import delta_rule_step
from .fsmn.attention.op import joint_attention
from .fsmn.attention.segment import joint_attention_segment
from .fsmn.attention.step import JointAttentionState, joint_attention_step
from .fsmn.dense.op import dense_fsmn_memory
from .fsmn.memory.op import fsmn_memory
from .fsmn.memory.step import fsmn_memory_step
from .fsmn.norm.op import sequence_norm
from .linear_scan.op import linear_scan
from .linear_scan.step import linear_scan_step
from .selective_scan.op import selective_scan
from .selective_scan.step import selective_scan_step
from .ssd.op import ssd
from .ssd.step import ssd_step
from .ssm.dense import dense_ssm, dense_ssm_step
from .ssm.diagonal.op import diagonal_ssm
from .ssm.diagonal.step import diagonal_ssm_step
from .ssm.kernel import ssm_kernel
from .ssm.mimo.op import mimo_ssm
from .ssm.mimo.step import mimo_ssm_step

__all__ = [
    "BackendUnavailableError",
    "JointAttentionState",
    "delta_rule",
    "delta_rule_step",
    "dense_fsmn_memory",
    "dense_ssm",
    "dense_ssm_step",
    "diagonal_ssm",
    "diagonal_ssm_step",
    "fsmn_memory",
    "fsmn_memory_step",
    "joint_attention",
    "joint_attention_segment",
    "joint_attention_step",
    "linear_scan",
    "linear_scan_step",
    "mimo_ssm",
    "mimo_ssm_step",
    "selective_scan",
    "selective_scan_step",
    "sequence_norm",
    "ssd",
    "ssd_step",
    "ssm_kernel",
    "use_backend",
]
