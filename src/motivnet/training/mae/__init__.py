"""Pre-training by masked autoencoding (MAE)."""
