"""The manager: keeps desired state in the replicated store, decides, and drives the agents towards it."""
