"""Whether what a runtime computes is what torch computes."""
