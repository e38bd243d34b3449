"""The control loop, written once, and the table of the deciders it runs."""
