"""What the user asked for, in Docker's own JSON names: REST body, stored JSON and type in one."""
