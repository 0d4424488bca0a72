"""One file a kind of step, behind one protocol."""
