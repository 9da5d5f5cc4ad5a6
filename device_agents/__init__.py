"""What runs on a device, and the host's end of the wire."""
