"""What needs all kinds of steps: to import a module of this package registers them."""

from flowllm.language.parse import load_workflow
from flowllm.language.schema import config_schema, workflow_schema

__all__ = ["config_schema", "load_workflow", "workflow_schema"]
