"""Loads workflows with all kinds of steps: to import a module of this package registers them."""

from flowllm.language.parse import load_workflow

__all__ = ["load_workflow"]
