"""What converting, exporting and predicting share: a trained network, and one's own pictures."""
