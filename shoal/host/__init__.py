"""The supervisor: forks agent and manager from one warm image, runs etcd, restarts them."""
