"""Containers of this host, a task's or a person's: one life for both.

`engine.Engine` is the door. What a container's image, mounts, network and processes are made of
belongs to the neighbours behind `seams`. Design: docs/design/runtime.md.
"""
