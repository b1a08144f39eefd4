"""Short programs for those who bring a network or an optimiser of their own."""
