"""Bundles on disk, and key maps from the formats that others release."""
