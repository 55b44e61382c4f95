"""`meshlog demo`: the bookstore on a real mesh, told as a story of checks (`story`), shown (`view`), reported (`report`)."""
