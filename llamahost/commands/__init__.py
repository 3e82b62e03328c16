"""One file a command: `run`, `chat`, `models`, `check`, `config`. Their heavy imports wait until they are called."""
