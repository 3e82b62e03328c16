"""What a request becomes: words to jobs and replies. Knows no manifest and no replica."""
