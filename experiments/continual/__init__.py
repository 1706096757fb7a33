"""Tasks learned one after the other: the paper's section 6.3."""
