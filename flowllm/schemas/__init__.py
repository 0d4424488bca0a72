"""JSON Schemas: patterns and values checked in bounded time."""
