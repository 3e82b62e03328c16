"""HTTP: one file a dialect over one stream of events."""
