# SPDX-License-Identifier: Apache-2.0
"""Synthetic tasks that only a model with a state of the right kind can solve at any length."""

import inspect
from collections.abc import Callable
from typing import Any

from seqlib.mixers.names import unknown_name

from .bracketed_arithmetic import BracketedArithmetic
from .examples import TaskExamples, stream
from .groups import GROUPS, Group, group
from .modular_arithmetic import ModularArithmetic
from .parity import Parity
from .task import UNASKED, Example, Task
from .word_problem import SUBSETS, WordProblem

TASKS: dict[str, Callable[..., Task]] = {
    task.name: task for task in (Parity, ModularArithmetic, BracketedArithmetic, WordProblem)
}

__all__ = [
    "GROUPS",
    "SUBSETS",
    "TASKS",
    "UNASKED",
    "BracketedArithmetic",
    "Example",
    "Group",
    "ModularArithmetic",
    "Parity",
    "Task",
    "TaskExamples",
    "WordProblem",
    "group",
    "make_task",
    "stream",
]


def make_task(name: str, **options: Any) -> Task:
    """A task by name with its options.

    Raises:
        ValueError: an unknown name or option (says which one may be meant), or what the task
            refuses.
    """
    if name not in TASKS:
        raise unknown_name("task", name, TASKS)
    known = inspect.signature(TASKS[name]).parameters
    for option in options:
        if option not in known:
            raise unknown_name(f"option of {name}", option, known)
    return TASKS[name](**options)
