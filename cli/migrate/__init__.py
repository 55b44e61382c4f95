"""From Open Service Mesh to Meshlog: `inventory` reads what a cluster (or files) holds, `advice` says what it means."""
