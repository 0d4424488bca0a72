"""`value` steps: values computed from templates."""
