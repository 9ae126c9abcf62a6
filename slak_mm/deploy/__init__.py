"""Models as they leave for other programs."""
