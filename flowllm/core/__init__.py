"""Types, errors, events, time and requests: what every layer may use. Needs the standard library alone."""
