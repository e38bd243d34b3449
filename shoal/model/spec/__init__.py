"""What the user asked for, in Docker's own JSON names: REST body, stored JSON, type in one."""
