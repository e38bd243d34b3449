"""The agent of a host: the Docker Engine API, containers, images, networks, volumes, logs, and one session to a manager."""
