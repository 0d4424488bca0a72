"""What SQL databases share: the tables, the statements, the writer and the readers."""
