"""Foreign clients against an edge, whichever server it has: what each does, and whether it got what it should."""
