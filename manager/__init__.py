"""The manager: keeps desired state in the replicated store and drives agents towards it."""
