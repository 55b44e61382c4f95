"""Named queries over the state of the mesh: what is a member, what a service offers, who may call what."""
