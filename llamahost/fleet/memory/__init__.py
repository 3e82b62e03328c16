"""What is in memory: who is loaded where, who leaves, who waits, who is refused. Pure; the crew does it."""
