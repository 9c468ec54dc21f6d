"""How good it is: the measures of the papers over recordings."""
