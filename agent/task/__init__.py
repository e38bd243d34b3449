"""A task's life on its host: `machine` decides, `manager` does it through a controller."""
