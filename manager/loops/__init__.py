"""The control loop, written once, and the table of the deciders it runs.

Design: docs/design/control-loop.md.
"""
