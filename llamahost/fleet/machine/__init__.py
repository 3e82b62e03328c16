"""What there is: devices, models' files, and what one takes of the other. Decides nothing of what is loaded."""
