"""ReasoningGym: one-turn tasks of the package reasoning-gym, with guarded graders and checked gold answers."""
