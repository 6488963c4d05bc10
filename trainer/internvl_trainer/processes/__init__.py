"""Worker processes and how many there may be: what every part that computes or moves much stands on."""
