"""The parts that convert, export, predict, embed and search share: a trained network, and the user's pictures."""
