"""Train, prune at once, measure: the paper's section 3 and Figure 1."""
