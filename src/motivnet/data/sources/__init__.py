"""One file per data set, each producing the manifest."""
