"""What a compiler engineer reads: one folder an operation. Imports nothing of `jaxnets`."""
