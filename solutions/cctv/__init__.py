"""Safety and security events from camera streams."""
