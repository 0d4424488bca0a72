"""The ways in which a program may have its event loop make tasks."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

EAGER: Callable[..., Any] | None = getattr(asyncio, "eager_task_factory", None)
FACTORIES: list[Callable[..., Any] | None] = [None] if EAGER is None else [None, EAGER]
"""Python's own, and from 3.12 on one that takes a task's first step where the task is made."""
