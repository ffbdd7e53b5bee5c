"""Split functions: from the encoding of a text to one score per split node (section 3.1 of the paper)."""
