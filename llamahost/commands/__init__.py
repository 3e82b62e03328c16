"""One file a command, what several share beside them. Their heavy imports wait until they are called."""
