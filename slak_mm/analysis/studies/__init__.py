"""The studies of docs/study.md: which runs they have, how these are run, and the tables and figures that are made of their results."""
