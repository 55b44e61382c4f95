"""The devcluster's API server: enough of the Kubernetes API for `kubectl`, `kubernetes.aio`, watches and webhooks."""

from deploy.devcluster.apiserver.server import ApiServer as ApiServer
