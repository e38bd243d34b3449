"""Which node a task runs on. All pure. Design: docs/design/scheduler.md."""
