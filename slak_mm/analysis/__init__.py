"""What a SLaK costs, and what it sees."""
