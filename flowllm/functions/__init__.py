"""Functions of the user's: the modules they are in, their values as JSON, their errors in words.

It needs nothing but `core` and the standard library, so that a machine of a cluster can call them without more of flowllm.
"""
