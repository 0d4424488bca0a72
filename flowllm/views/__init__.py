"""What people look at, as plain values read from the store: for the page, the report, `show`, `watch`, `export` and `diff`."""
