"""What a run is: its settings, the profiles, the variants and their identities."""
