"""Named queries over the state of the mesh: members, the ports of services, permitted calls."""
