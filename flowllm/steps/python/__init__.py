"""`python` steps: functions of the user's own."""
