"""The network without Lightning: tasks, the graph of their reads, architecture, heads, balancer, and roles."""

from mtl_lightning.core.network.graph import Edge
from mtl_lightning.core.network.network import Network
from mtl_lightning.core.network.roles import Named, Roles

__all__ = ["Edge", "Named", "Network", "Roles"]
