"""Policy as users wrote it, in any version, read into one model: `decode`, `model`, `regexes`.

It is shared, because two must refuse the same objects with the same sentence: the compiler, which leaves them out, and
the validating webhook, which keeps them from being stored in the first place.
"""
