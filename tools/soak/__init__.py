"""Everything at once, at random, on a real server: see `__main__`."""
