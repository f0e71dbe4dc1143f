"""From images to typed results."""
