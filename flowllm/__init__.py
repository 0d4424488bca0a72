"""Run graphs of LLM calls written in YAML."""
