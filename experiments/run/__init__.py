"""What every study's command shares: the training loop, a run's folder, its options, and the terminal."""
