"""Search for the attack under which a rule learns least: what AutoAttack is for vision."""
