"""The runtime driver that runs containers itself: runc under conmon."""
