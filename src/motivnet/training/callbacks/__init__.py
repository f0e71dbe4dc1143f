"""Lightning callbacks: curves, checkpoints, warnings, stopping."""
