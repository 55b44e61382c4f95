"""What Kubernetes' controller manager does, as far as the devcluster needs it: Deployments to endpoints and names."""

from deploy.devcluster.controllers.app import MIRRORED, Controllers

__all__ = ["MIRRORED", "Controllers"]
