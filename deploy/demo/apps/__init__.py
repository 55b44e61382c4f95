"""The programs of the bookstore: ordinary HTTP and TCP programs that know nothing of a mesh."""
