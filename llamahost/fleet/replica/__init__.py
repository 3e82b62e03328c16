"""What is opened: a model with its worker, and all that it is made of. Knows no other replica."""
