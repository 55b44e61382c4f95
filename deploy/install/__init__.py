"""What the control plane is to Kubernetes: its objects, rendered from one description of its services."""
