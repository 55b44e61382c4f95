"""Whether a call passes, read from what sidecars are told: the same answer that the Envoys give."""
