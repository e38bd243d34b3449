"""Health checks of containers with Docker's semantics: counting apart from probing."""
