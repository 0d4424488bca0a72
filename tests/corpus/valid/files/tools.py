"""Functions for the corpus. Importing this file is a mistake."""

raise SystemExit("imported")


def score(text):
    return len(text)
