"""The command line: a verb is a function that parses, builds, runs and reports."""
