"""The agent's images: a content store of its own, filled from archives and registries."""
