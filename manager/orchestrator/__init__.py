"""Which tasks there should be: deciders for services, nodes, updates, restarts. All pure."""
