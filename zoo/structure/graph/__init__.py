"""The graphical model of a program: its sites and what each depends on, folded where they repeat, placed, and drawn."""
