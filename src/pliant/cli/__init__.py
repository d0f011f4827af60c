"""The command line: thin. Importing it imports neither torch nor any other room."""
