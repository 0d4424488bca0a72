"""What an observer is told: the classes of events, for programs that use the library."""

from __future__ import annotations

from flowllm.core.events import *  # noqa: F403 - the public name of that module
