"""The gender study: Mynn, a network of a dozen lines, against larger ones, on photographs or on drawn faces."""
