"""Running one container: the driver seam and its drivers."""
