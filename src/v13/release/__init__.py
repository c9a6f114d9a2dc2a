"""From a sign-off to production and back; so far: whether what is watched agrees with what was logged."""
