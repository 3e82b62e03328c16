"""Words: templates, stops, UTF-8, replies. Knows no slot, thread or C."""
