"""The parts that all studies share: the training loop, a run's folder, its options, and the terminal."""
