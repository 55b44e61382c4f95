"""Migration from Open Service Mesh: `inventory` reads the objects of a cluster (or files), `advice` judges them."""
