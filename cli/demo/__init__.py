"""`meshlog demo`: the bookstore on a real mesh: what happens (`story`), how it looks (`view`), what it found (`report`)."""
