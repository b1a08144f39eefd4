"""The tables of the README and of experiments/results, made of the results that are committed."""
