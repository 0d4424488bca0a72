"""Pages that stand alone: one file each, without a script, that load nothing."""
