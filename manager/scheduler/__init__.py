"""Which node a task runs on. All pure."""
