"""Every speed and memory figure, peers in the same run: one file a measurement."""
