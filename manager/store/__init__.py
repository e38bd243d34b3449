"""The replicated store: etcd below, objects above, and the leader that may decide."""
