"""The vocabulary: objects, states, specifications, errors.

Pure: the standard library and msgspec only.
"""
