"""What Kubernetes' kubelet does, as far as the devcluster needs it: pods become processes, and say how they are."""

from deploy.devcluster.kubelet.agent import Kubelet, NodeSettings
from deploy.devcluster.kubelet.pod.volumes import ServiceAccountToken, ServiceAccountTokens

__all__ = ["Kubelet", "NodeSettings", "ServiceAccountToken", "ServiceAccountTokens"]
