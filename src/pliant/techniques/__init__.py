"""What bends, trains, searches and measures a family: one folder per kind, one file per published system."""
