"""The operations, one folder each, for a reader who knows compilers. Imports nothing of `jaxnets`."""
