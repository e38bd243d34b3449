"""Tools without rules of their own: clock, entropy, TLS, logging.

Shells may use them, pure code never does.
"""
