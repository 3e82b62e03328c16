"""Which model runs where: manifest, loader, replicas."""
