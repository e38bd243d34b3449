"""What can be asked of the cluster, free of transport: create, update, remove, list."""
