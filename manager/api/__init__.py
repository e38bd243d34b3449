"""The cluster half of the Docker Engine API, for the agent of the same host."""
