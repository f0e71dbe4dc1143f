"""Data sets: the manifest, its readers, what is removed from training, and loaders."""
