"""Clones and remotes: reads by libgit2, changes by the git command."""
