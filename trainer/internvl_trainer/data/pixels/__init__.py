"""Pixels: image files to RGB, resizing, and the JPEG pass that augments tiles. Every step works on one thread."""
