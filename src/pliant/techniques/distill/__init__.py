"""Ways in which a student learns from a teacher: what is looked at inside both, and the loss between them."""
