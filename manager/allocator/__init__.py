"""Published ports and node subnets, and the tasks that wait for them. All pure."""
