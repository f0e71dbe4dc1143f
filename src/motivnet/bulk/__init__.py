"""Any number of images: inputs, parts, workers, Ray."""
