"""Agents' sessions: what each node is told, what it reports, and whether it is heard of."""
