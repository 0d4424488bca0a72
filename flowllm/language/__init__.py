"""The language: YAML text to a checked Workflow, with line and column on every problem."""
