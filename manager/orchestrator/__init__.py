"""Which tasks there should be: deciders for services, nodes, updates, restarts. All pure.

Design: docs/design/control-loop.md, docs/design/updates.md.
"""
