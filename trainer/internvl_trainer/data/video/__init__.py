"""Videos of conversations: which of their frames a sample shows, and those frames as tiles."""
