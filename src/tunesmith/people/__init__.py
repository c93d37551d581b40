"""People look at answers: a local page for ratings and for blind A/B, and what came of it. Needs no torch."""
