"""What is said: the manifest, its keys and what each may be. Knows no device and no file but the manifest's own."""
