"""The supervisor: imports the libraries once, forks agent and manager from that image, runs etcd, restarts what ends."""
