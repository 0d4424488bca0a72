"""Where the work of a node is carried out."""
