"""Pre-training by masked autoencoding."""
