"""The command line: one file per verb, the same verbs as the library."""
