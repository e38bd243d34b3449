"""Tools without rules of their own: clock, entropy, backoff, TLS, logging. May be used by shells, never by pure code."""
