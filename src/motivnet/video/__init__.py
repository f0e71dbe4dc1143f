"""Videos: read, follow faces from frame to frame, label, write."""
