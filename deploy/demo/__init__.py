"""The bookstore demo: its programs, its manifests, and the checks that `meshlog demo` makes."""
