"""Data sets as streams of rows, and the file that takes what comes of them."""
