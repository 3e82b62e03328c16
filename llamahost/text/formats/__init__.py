"""How families of models write their thoughts and calls: a small file each, `table` finds it. Knows no tokens."""
