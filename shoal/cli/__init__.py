"""The `shoal` command: what the stock `docker` CLI has no verb for."""
