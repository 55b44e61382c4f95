"""Policy as users wrote it, in any version, read into one model: `model`, `decode`, `regexes`."""
