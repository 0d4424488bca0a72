"""The local web page and the pages that stand alone: a door, beside the command line."""
