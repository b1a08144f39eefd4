"""The ArcLoss study: twelve networks and optimisers that draw MNIST in the plane."""
