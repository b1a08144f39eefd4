"""What a person runs: one module or package a command."""
