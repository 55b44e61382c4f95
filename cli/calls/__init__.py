"""Predicts from the configuration of sidecars whether a call passes: the decision that the Envoys take."""
