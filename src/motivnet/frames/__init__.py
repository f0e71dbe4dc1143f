"""Video files: upright RGB frames with their times, and clips of them."""
