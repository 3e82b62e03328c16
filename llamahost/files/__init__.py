"""Files of models: what is meant, what lies here, what a hub has, how it comes here. Knows no spec and no replica."""
