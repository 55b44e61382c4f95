"""Fuzz targets for atheris; `make fuzz-edge` runs them."""
