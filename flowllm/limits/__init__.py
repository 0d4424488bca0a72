"""Admission: how many requests go, when, and in which order."""
