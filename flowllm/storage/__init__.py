"""What is kept on disk, told in the verbs of the domain."""
