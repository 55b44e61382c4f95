"""The kubelet: runs the pods of the node as processes, and reports their status."""

from deploy.devcluster.kubelet.agent import Kubelet, NodeSettings
from deploy.devcluster.kubelet.pod.volumes import ServiceAccountToken, ServiceAccountTokens

__all__ = ["Kubelet", "NodeSettings", "ServiceAccountToken", "ServiceAccountTokens"]
