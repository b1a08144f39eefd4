"""The parts that convert, export and predict share: a trained network, and the user's pictures."""
