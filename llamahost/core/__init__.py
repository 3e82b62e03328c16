"""Plain frozen types and protocols. Knows the standard library only; everything else stands on it."""
