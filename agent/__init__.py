"""The agent of a host: Docker Engine API, containers, images, networks, volumes, logs.

It holds one session to a manager and runs what it is assigned.
"""
