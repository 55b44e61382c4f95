"""What Kubernetes' controller manager does, as far as the devcluster needs it: Deployments to endpoints and names."""

from deploy.devcluster.controllers.controller_manager import CACHED_RESOURCES, ControllerManager

__all__ = ["CACHED_RESOURCES", "ControllerManager"]
