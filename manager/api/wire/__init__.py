"""What Docker says differently from what we keep: envelopes of objects, info, events. Pure."""
