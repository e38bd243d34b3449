"""The supervisor: forks agent and manager from one warm image, runs etcd, restarts them.

Its design: docs/design/supervision.md.
"""
