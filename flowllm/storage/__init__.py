"""What is kept on disk, in the verbs of the domain."""
