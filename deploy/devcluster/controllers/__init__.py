"""The controller manager: Deployments, ReplicaSets, StatefulSets, claims, endpoints, Services, garbage collection."""

from deploy.devcluster.controllers.controller_manager import CACHED_RESOURCES, ControllerManager

__all__ = ["CACHED_RESOURCES", "ControllerManager"]
