"""A comparison on a terminal or in plain text: its tables, its lines, and θ before them."""
