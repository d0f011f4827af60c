"""Tasks of the recipes' benchmark beside the built-in ones, as files that a user could have written."""
